"""The embedded prompt model: what it adds, and how far the sampling settings carry it."""

import functools
import itertools
import logging
import re
from pathlib import Path

import pytest
import torch

from dream_o.dream_render.enhancer import MAX_ADDED_TOKENS, Enhancer
from dream_o.dream_render.registry import PromptModelEntry, Source, read_registry
from dream_o.dream_render.styles import known_styles
from dream_o.errors import UserError

PROMPTS = (
    "shoe",
    "a lighthouse at dusk",
    "Portrait of an OLD fisherman, 85mm ",
    "qüokka 🦘",
    "cat,",
)


def enhanced(
    enhancer: Enhancer, prompt: str, seeds: range, temperature: float = 0.8, top_p: float = 0.9
) -> list[str]:
    return [
        enhancer.enhance(prompt, temperature=temperature, top_p=top_p, seed=seed) for seed in seeds
    ]


@functools.cache
def sampled(enhancer: Enhancer, temperature: float, top_p: float) -> list[str]:
    """20 continuations of `shoe`, which several tests look at."""
    return enhanced(enhancer, "shoe", range(20), temperature, top_p)


def words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.lower())


def mean_difference(texts: list[str]) -> float:
    """Mean over pairs of the share of phrases that only one of the two has."""
    sets = [{phrase.strip() for phrase in text.split(",")} for text in texts]
    pairs = list(itertools.combinations(sets, 2))
    return sum(1 - len(a & b) / len(a | b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("temperature", [0.8, 2.0])
def test_the_users_words_stay_in_front_and_few_are_added(
    enhancer: Enhancer, prompt: str, temperature: float
) -> None:
    for text in enhanced(enhancer, prompt, range(2), temperature):
        assert text.startswith(prompt)
        added = text.removeprefix(prompt)
        assert words(added)
        assert len(enhancer.tokenizer(added).input_ids) <= MAX_ADDED_TOKENS
        assert len(words(added)) <= MAX_ADDED_TOKENS
        assert "\n" not in added


def test_temperature_0_is_the_same_every_time(enhancer: Enhancer) -> None:
    assert len(set(enhanced(enhancer, "shoe", range(5), temperature=0.0))) == 1


def test_a_seed_gives_the_same_text_and_leaves_the_global_generator_alone(
    enhancer: Enhancer,
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    once = enhanced(enhancer, "shoe", range(1, 3))
    assert torch.equal(torch.rand(4), expected)
    assert enhanced(enhancer, "shoe", range(1, 3)) == once
    assert once[0] != once[1]


def test_the_variety_grows_with_temperature_and_with_top_p(enhancer: Enhancer) -> None:
    by_temperature = [mean_difference(sampled(enhancer, value, 0.9)) for value in (0.2, 0.8, 1.4)]
    assert by_temperature == sorted(by_temperature)
    assert by_temperature[0] + 0.1 < by_temperature[1] < by_temperature[2] - 0.01
    narrow = mean_difference(sampled(enhancer, 0.8, 0.3))
    assert narrow + 0.1 < by_temperature[1]


def test_no_three_words_are_repeated_in_200_samples(enhancer: Enhancer) -> None:
    texts = [
        text
        for settings in ((0.2, 0.9), (0.8, 0.9), (1.4, 0.9), (0.8, 0.3))
        for text in sampled(enhancer, *settings)
    ]
    texts += enhanced(enhancer, "a lighthouse at dusk", range(60), temperature=0.4, top_p=1.0)
    texts += enhanced(enhancer, "cat", range(60), temperature=2.0, top_p=1.0)
    assert len(texts) == 200
    for text in texts:
        said = words(text)
        trigrams = list(zip(said, said[1:], said[2:], strict=False))
        assert len(trigrams) == len(set(trigrams)), text


def test_the_additions_suit_the_subject_and_are_no_styles(enhancer: Enhancer) -> None:
    texts = sampled(enhancer, 0.8, 0.9)
    assert sum("stitching" in text or "leather" in text for text in texts) >= 5
    assert not any("fur" in words(text) or "petals" in words(text) for text in texts)
    # Words that stand for a style, of which the enhancement is free.
    named = {"anime", "painting", "watercolour", "drawing", "origami", "render", "sketch"}
    assert set(known_styles()) & named
    assert not any(named & set(words(text)) for text in texts)


def test_a_prompt_longer_than_the_models_memory_is_continued(
    enhancer: Enhancer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    # The tokenizer warns once, and this test may not be the first to make it.
    monkeypatch.setattr(enhancer.tokenizer, "deprecation_warnings", {})
    prompt = ", ".join(f"shoe number {number}" for number in range(200))
    (text,) = enhanced(enhancer, prompt, range(1))
    assert text.startswith(prompt + ", ")
    assert "sequence length" not in caplog.text


def test_the_embedded_model_is_small_and_plain_data() -> None:
    folder = read_registry().prompt_models["embedded"].source.path
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(files.values()) < 4_000_000
    assert {Path(name).suffix for name in files} == {".json", ".safetensors"}


def test_a_missing_or_damaged_model_is_named_without_its_path(tmp_path: Path) -> None:
    entry = PromptModelEntry("big", Source(str(tmp_path / "big")), licence="-", summary="-")
    with pytest.raises(UserError, match=r"big is not on this machine; .* download big") as missing:
        Enhancer.load(entry, torch.device("cpu"))
    (tmp_path / "big").mkdir()
    with pytest.raises(UserError, match="the prompt model big cannot be read") as damaged:
        Enhancer.load(entry, torch.device("cpu"))
    assert str(tmp_path) not in str(missing.value) + str(damaged.value)


@pytest.mark.parametrize("temperature", [1e-37, 1e-12])
def test_a_tiny_temperature_is_greedy(enhancer: Enhancer, temperature: float) -> None:
    tiny, greedy = (enhanced(enhancer, "shoe", range(1), each) for each in (temperature, 0.0))
    assert tiny == greedy
