"""Training the prompt model: the corpus, and deterministic results."""

import tomllib
from pathlib import Path

import torch

from dream_o.dream_render.enhancer import Enhancer
from dream_o.dream_render.registry import PromptModelEntry, Source
from training.enhancer.__main__ import PHRASES, make, samples


def digest(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_corpus_contains_only_the_phrases() -> None:
    phrases = tomllib.loads(PHRASES.read_text(encoding="utf-8"))
    corpus = list(samples(phrases, 300))
    assert corpus == list(samples(phrases, 300))
    for each in corpus:
        said = [phrase.strip() for phrase in each.continuation.split(",")]
        assert len(said) == len(set(said))
        assert each.prompt.endswith(",")
        assert not any("|" in phrase or not phrase for phrase in said)


def test_training_is_deterministic_and_makes_a_model_that_loads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        make(tmp_path / "one", steps=2, count=200)
        make(tmp_path / "two", steps=2, count=200)
    finally:
        torch.set_num_threads(threads)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    enhancer = Enhancer.load(
        PromptModelEntry("one", Source(str(tmp_path / "one")), "-", "-"), torch.device("cpu")
    )
    assert enhancer.enhance("shoe", temperature=0.8, top_p=0.9, seed=1).startswith("shoe")
