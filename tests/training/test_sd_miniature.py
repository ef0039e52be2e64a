"""Training the embedded checkpoint: its drawings, its VAE before training, and a short run."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from dream_o.dream_render.registry import Source
from training.sd_miniature import __main__ as make_miniature
from training.sd_miniature.__main__ import colours, make
from training.sd_miniature.model import build, train_tokenizer
from training.sd_miniature.world import MANNERS, NOUNS, Scene, caption, draw, random_scene


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    chance = random.Random(1)
    return train_tokenizer([caption(random_scene(chance), chance) for _ in range(1000)])


def scene(**changes: object) -> Scene:
    plain = {"noun": "ball", "colour": "red", "ground": "mint", "style": None}
    return Scene(**(plain | {"scale": 0.6, "shift": (0.0, 0.0)} | changes))  # type: ignore[arg-type]


def test_a_scene_shows_its_colour_on_its_background() -> None:
    image = draw(scene(), 64).astype(int)
    red, green, blue = image[36, 36]
    assert red > 2 * green
    assert red > 2 * blue
    assert image[4, 4, 1] > image[4, 4, 0]
    assert np.array_equal(image, draw(scene(), 64))


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_looks_different(noun: str) -> None:
    image = draw(scene(noun=noun), 32).astype(int)
    for other in set(NOUNS) - {noun}:
        assert np.abs(image - draw(scene(noun=other), 32)).mean() > 3


@pytest.mark.parametrize("style", MANNERS)
def test_every_style_is_visible(style: str) -> None:
    plain, styled = draw(scene(), 64).astype(int), draw(scene(style=style), 64)
    assert np.abs(plain - styled).mean() > 3


def test_captions_name_what_is_shown() -> None:
    chance = random.Random(2)
    for _ in range(100):
        shown = random_scene(chance)
        assert shown.noun in caption(shown, chance)


def test_the_tokenizer_has_one_token_for_each_known_word_and_spells_others(
    tokenizer: CLIPTokenizer,
) -> None:
    assert all(len(tokenizer.tokenize(noun)) == 1 for noun in NOUNS)
    assert len(tokenizer.tokenize("Grüße 靴")) > 2
    assert tokenizer.unk_token_id not in tokenizer("Grüße 靴", add_special_tokens=False).input_ids


@torch.no_grad()
def test_the_vae_reconstructs_colours_before_training(tokenizer: CLIPTokenizer) -> None:
    vae = build(tokenizer).vae
    pixels = torch.tensor(draw(scene(), 64)[None]).permute(0, 3, 1, 2) / 127.5 - 1
    means = torch.nn.functional.avg_pool2d(pixels, 8)
    latents = vae.encode(pixels).latent_dist.mode()
    assert torch.allclose(latents, colours(means), atol=0.1)
    blocks = torch.nn.functional.interpolate(means, scale_factor=8)
    assert torch.allclose(vae.decode(colours(means)).sample, blocks, atol=0.1)


def test_a_short_training_writes_a_checkpoint_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dream_o.dream_render.checkpoints import load_checkpoint
    from dream_o.dream_render.painting import paint
    from dream_o.dream_render.registry import ModelEntry

    for name, value in {
        "STAGES": ((8, 2, 1), (16, 1, 1)),
        "SCENES": 4,
        "TEXT_STEPS": 1,
        "DECODER_STEPS": 1,
        "DECODER_BATCH": 1,
    }.items():
        monkeypatch.setattr(make_miniature, name, value)
    make(tmp_path / "made")
    entry = ModelEntry(
        name="made", family="sd15", source=Source(str(tmp_path / "made")), licence="-", summary="-"
    )
    pipeline = load_checkpoint(entry, torch.device("cpu"), torch.float32)
    image = paint(
        pipeline, "shoe", "", width=64, height=64, steps=1, cfg_scale=2.0, seed=1, hires=False
    )
    assert image.size == (64, 64)
