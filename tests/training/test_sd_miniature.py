"""Training DreamRender's miniature: its images, its captions, its VAE, and a short run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from dream_o.dream_render.checkpoints import load_checkpoint
from dream_o.dream_render.painting import paint
from dream_o.dream_render.registry import ModelEntry, Source
from dream_o.dream_render.styles import known_styles
from training.draw import Draw
from training.sd_miniature.__main__ import main
from training.sd_miniature.captions import (
    describe,
    enhancer_texts,
    held_out_examples,
    is_held_out,
    random_caption,
    random_example,
    vocabulary,
    words_of,
)
from training.sd_miniature.denoiser import Phase, denoising_loss
from training.sd_miniature.images import COLOURS, GROUNDS, THINGS, Shown, draw
from training.sd_miniature.judge import judge, right_on_true_images, tiles_of
from training.sd_miniature.model import SCALING, TEXT_CHANNELS, build, colours, grown
from training.sd_miniature.training import Recipe, run
from training.tokenizers import clip_tokenizer
from training.world.looks import LOOKS

SHOE = Shown("shoe", "red", "plain", "mint")


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer(vocabulary())


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_an_image_shows_its_thing_on_its_background() -> None:
    image = draw(SHOE, 64, 64, random()).astype(int)
    red, green, blue = image[40, 30]
    assert red > 2 * green
    assert red > 2 * blue
    assert image[4, 4, 1] > image[4, 4, 0]
    assert np.array_equal(image, draw(SHOE, 64, 64, random(1)))


def test_every_thing_looks_different() -> None:
    images = {thing: draw(replace(SHOE, thing=thing), 64, 64, random()) for thing in THINGS}
    assert len({image.tobytes() for image in images.values()}) == len(THINGS) == 15


@pytest.mark.parametrize("style", LOOKS)
def test_every_style_is_visible(style: str) -> None:
    plain = draw(SHOE, 64, 64, random()).astype(int)
    assert np.abs(draw(replace(SHOE, style=style), 64, 64, random()) - plain).mean() > 5


def test_there_is_a_look_for_each_style() -> None:
    assert set(LOOKS) == set(known_styles())


@pytest.mark.parametrize(("rows", "columns"), [(64, 96), (96, 64), (128, 128), (32, 48), (40, 40)])
def test_an_image_is_scaled_with_its_shorter_side(rows: int, columns: int) -> None:
    image = draw(SHOE, rows, columns, random())
    assert image.shape == (rows, columns, 3)
    red = (image[..., 0] > 2.0 * image[..., 1]).nonzero()
    side = min(rows, columns)
    assert 0.45 < np.ptp(red[1]) / side < 0.65
    assert abs((red[1].max() + red[1].min() + 1) / 2 / columns - 0.5) < 0.05


def test_the_judge_recognises_true_images_at_every_size() -> None:
    assert right_on_true_images(10) == 1.0
    shown = Shown("car", "blue", "dotted", "snow")
    tiles = draw(shown, 64, 64, random())
    for side in (256, 512, 1024):
        image = Image.fromarray(tiles).resize((side, side), Image.Resampling.BOX)
        assert judge(tiles_of(image)) == shown


def test_a_prompt_names_what_the_image_shows() -> None:
    said = {"thing": "car", "colour": "blue", "ground": "dark", "pattern": "striped"}
    for seed in range(20):
        prompt = describe(said, random(seed))
        assert {"car", "blue", "dark"} <= set(prompt.replace(",", "").split())
        assert "strip" in prompt


def test_training_sees_no_held_out_combination() -> None:
    chance = random(3)
    assert not any(is_held_out(random_example(chance)[1]) for _ in range(300))
    held_out = held_out_examples(50)
    assert held_out == held_out_examples(60)[:50]
    for prompt, shown in held_out:
        assert is_held_out(shown)
        assert shown.colour in prompt


def test_captions_are_empty_negative_enhanced_and_styled() -> None:
    captions = [random_caption(random(seed)) for seed in range(400)]
    assert 20 < sum(not each.text for each in captions) < 70
    assert 60 < sum("style" in each.said for each in captions) < 160
    negatives = [each for each in captions if each.text and not each.said]
    assert 5 < len(negatives) < 60
    designed = [each for each in captions if "one isolated object" in each.text]
    assert designed
    assert {each.said["ground"] for each in designed} == {"light grey"}


def test_the_tokenizer_has_one_token_for_each_known_word_and_spells_others(
    tokenizer: CLIPTokenizer,
) -> None:
    assert all(len(tokenizer.tokenize(word)) == 1 for word in vocabulary())
    assert len(tokenizer.tokenize("Grüße 靴")) > 2
    assert tokenizer.unk_token_id not in tokenizer("Grüße 靴", add_special_tokens=False).input_ids


def test_every_word_of_the_enhancer_and_of_the_styles_is_known() -> None:
    known = set(vocabulary())
    texts = [*enhancer_texts(), *(style.prompt for style in known_styles().values())]
    assert len(texts) > 300
    assert [word for each in texts for word in words_of(each) if word not in known] == []
    assert {*THINGS, *COLOURS, *(word for each in GROUNDS for word in words_of(each))} <= known


@torch.no_grad()
def test_the_vae_passes_colours_exactly(tokenizer: CLIPTokenizer) -> None:
    vae = build(tokenizer, 0).vae
    assert vae.config.scaling_factor == SCALING
    means = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blocks = torch.nn.functional.interpolate(means, scale_factor=8)
    latents = vae.encode(blocks).latent_dist.mode()
    assert torch.allclose(latents, colours(means), atol=0.002)
    assert torch.allclose(vae.decode(colours(means)).sample, blocks, atol=0.002)


@torch.no_grad()
def test_a_grown_unet_draws_the_same_at_twice_the_size(tokenizer: CLIPTokenizer) -> None:
    generator = torch.Generator().manual_seed(0)
    unet = build(tokenizer, 0).unet
    torch.nn.init.normal_(unet.conv_out.weight[..., 1, 1], std=0.1, generator=generator)
    larger = grown(unet)
    assert larger.config.block_out_channels == (16, *unet.config.block_out_channels)
    smooth = torch.randn(1, 4, 4, 4, generator=generator)
    small = torch.nn.functional.interpolate(smooth, scale_factor=8, mode="bilinear")
    words = torch.randn(1, 77, TEXT_CHANNELS, generator=generator)
    expected = unet(small, 500, words).sample
    drawn = larger(torch.nn.functional.interpolate(small, scale_factor=2), 500, words).sample
    error = torch.nn.functional.avg_pool2d(drawn, 2) - expected
    assert float(error.square().mean() / expected.square().mean()) < 0.1


def test_repainted_images_have_another_colour_under_the_noise(tokenizer: CLIPTokenizer) -> None:
    pipeline = build(tokenizer, 0)
    seen: list[torch.Tensor] = []
    pipeline.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    sizes = (((16, 16), 16, 1.0, 1.0),)
    with torch.no_grad():
        for repainted in (0.0, 1.0):
            denoising_loss(pipeline, Draw.of(0, "small", 0), sizes, repainted=repainted)
    changed = (seen[0] != seen[1]).any(dim=1)
    assert changed.any(dim=(1, 2)).sum() > 4
    assert not changed[:, :3].any(), "the thing is lower; the background stays"


SHORT = Recipe(
    2,
    (
        Phase("small", 2, (((8, 8), 2, 1.0, 1.0),), blind=0.5, repainted=0.5),
        Phase("full", 1, (((16, 16), 2, 1.0, 1.0),), grown=True),
    ),
)


def test_a_stopped_training_gives_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    # What the log and the previews show is not compared.
    monkeypatch.setattr("training.sd_miniature.training.CAPTIONS_JUDGED", 4)
    monkeypatch.setattr("training.sd_miniature.preview.STEPS", 1)
    monkeypatch.setattr("training.sd_miniature.preview.SIDE", 64)
    run(tmp_path / "once.training", tmp_path / "once", SHORT)
    run(tmp_path / "twice.training", tmp_path / "twice", SHORT, last="text")
    assert not (tmp_path / "twice").exists()
    run(tmp_path / "twice.training", tmp_path / "twice", SHORT)
    files = [path.relative_to(tmp_path / "once") for path in (tmp_path / "once").rglob("*.*")]
    assert len([path for path in files if path.suffix == ".safetensors"]) == 3
    for path in files:
        assert (tmp_path / "once" / path).read_bytes() == (tmp_path / "twice" / path).read_bytes()
    entry = ModelEntry("made", "sd15", Source(str(tmp_path / "once")), "-", "-")
    pipeline = load_checkpoint(entry, torch.device("cpu"), torch.float32)
    image = paint(
        pipeline, "shoe", "", width=64, height=64, steps=1, cfg_scale=2.0, seed=1, hires=False
    )
    assert image.size == (64, 64)


def test_a_stage_that_does_not_exist_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["--output", str(tmp_path / "made"), "--stage", "vae"]) == 1
    assert (
        "stage: 'vae' does not exist; use text, small, prompt, colour, more, full"
        in capsys.readouterr().err
    )
