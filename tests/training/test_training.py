"""Training the miniature: each stage learns, can be resumed, and the result is a bundle."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dream_o.blocks import rotate
from dream_o.errors import InputError
from dream_o.pipeline import DreamOPipeline
from dream_o.references import prepare
from dream_o.sampling import pack, position_ids, time_shift
from dream_o.service.miniature import Miniature
from dream_o.weights.build.recipe import EXTRA_TOKENS
from tests.training.noise_pool import NoisePool
from training.draw import Draw
from training.miniature import contrast, preview, samples, training
from training.miniature import denoiser as denoiser_module
from training.miniature.__main__ import main
from training.miniature.autoencoder import autoencoder_stage, new_autoencoder, tile_latents, to_unit
from training.miniature.bundle import SCHEDULER, assemble, write
from training.miniature.captions import vocabulary
from training.miniature.denoiser import denoiser_stage, prepared_transformer
from training.miniature.encoder import Encoder
from training.miniature.examples import is_held_out, random_example
from training.miniature.pool import GRID, Pool, fill_pool, references
from training.miniature.text import new_text_encoders, text_stage
from training.miniature.tokenizers import REGISTERS, clip_tokenizer, t5_tokenizer
from training.miniature.tokens import (
    Box,
    attention_bias,
    choose,
    choose_patches,
    chosen_ids,
    moved,
    shift_times,
)
from training.miniature.training import Density, Recipe, run
from training.stage import Stage, train
from training.world.drawing import COPY_FROM_END, Subject, draw_cut_out, draw_tiles, subject_at


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    t5, clip = t5_tokenizer(), clip_tokenizer()
    return Encoder(new_text_encoders(t5, clip, 0), t5, clip)


def text(steps: int) -> Stage:
    t5, clip = t5_tokenizer(), clip_tokenizer()
    return text_stage(new_text_encoders(t5, clip, 0), t5, clip, steps, batch=2)


def vae(steps: int) -> Stage:
    return autoencoder_stage(new_autoencoder(0), steps, batch=2, crop=32)


def denoiser(steps: int) -> Stage:
    t5, clip = t5_tokenizer(), clip_tokenizer()
    encoder = Encoder(new_text_encoders(t5, clip, 0), t5, clip)
    transformer = prepared_transformer(encoder, 0, channels=96)
    return denoiser_stage("sparse", transformer, encoder, NoisePool(), steps, batch=2)


@pytest.mark.parametrize("make", [text, vae, denoiser])
def test_a_resumed_run_equals_an_uninterrupted_one(make, tmp_path: Path) -> None:
    whole, begun, resumed = make(4), make(4), make(4)
    train(whole, tmp_path / "whole", seed=3)
    train(begun, tmp_path / "stopped", seed=3, save_every=0.0, stop_after=2)
    train(resumed, tmp_path / "stopped", seed=3)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert not list(tmp_path.rglob(".*"))


def test_another_seed_gives_other_weights() -> None:
    assert Draw.of(0, "vae", 1).numpy.random() == Draw.of(0, "vae", 1).numpy.random()
    draws = {Draw.of(*key).numpy.random() for key in ((0, "vae", 1), (1, "vae", 1), (0, "vae", 2))}
    assert len(draws) == 3


def test_a_stage_learns(tmp_path: Path) -> None:
    stage = denoiser(12)
    before = sum(float(stage.loss(Draw.of(9, "x", step)).detach()) for step in range(3))
    train(stage, tmp_path, seed=0)
    after = sum(float(stage.loss(Draw.of(9, "x", step)).detach()) for step in range(3))
    assert after < before


def test_a_prompt_ends_with_the_registers_and_unknown_words_are_one_token() -> None:
    tokenizer = t5_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("[ref#1] and a Zorblax").input_ids)
    assert tokens == ["[ref#1]", "and", "a", "<unk>", "</s>", *REGISTERS]
    pieces = clip_tokenizer()("zorblax").input_ids
    assert len(pieces) > 3, "CLIP reads what it does not know by its letters"


def test_one_padding_token_can_stand_for_all(encoder: Encoder) -> None:
    text = encoder(["a red heart", "a striped red mug on the beach at night"])
    assert torch.allclose(text.weights.sum(1), torch.tensor(512.0))


@pytest.mark.parametrize(
    ("cell", "focus", "patches"),
    [
        (4, (8, 48, 0, 32), False),
        ((4, 2), (16, 48, 16, 48), False),
        (2, None, False),
        (1, (8, 48, 0, 32), False),
        (8, None, True),
    ],
)
def test_selected_tokens_can_stand_for_all(
    cell: int | tuple[int, int], focus: Box | None, patches: bool
) -> None:
    random = np.random.default_rng(0)
    whole = moved(choose_patches(32, random)[0], (22, 4), (52, 36)) if patches else None
    chosen = choose(52, 36, random, cell, focus, whole)
    assert chosen.counts.sum() == 52 * 36
    places = chosen.rows * 36 + chosen.columns
    assert len(places.unique()) == len(places)
    if cell == 1:
        assert len(places) == 52 * 36
    if cell == (4, 2):
        inside = (chosen.rows >= 16) & (chosen.rows < 48) & (chosen.columns >= 16)
        assert inside.sum() == 8 * 10


def test_image_patches_get_the_context_of_the_reference_patch() -> None:
    patches, around = choose_patches(32, np.random.default_rng(1))
    assert patches.sum() == 4 * 16
    for row, column in np.argwhere(patches):
        assert around[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2].all()
    rows, columns = 48, 64
    image = np.argwhere(moved(patches, subject_at(True, rows, columns), (rows, columns)))
    top, left = rows - COPY_FROM_END[0], columns - COPY_FROM_END[1]
    inside = [(row + top, column + left) for row, column in np.argwhere(patches) if row < 30]
    assert [tuple(each) for each in image] == inside


def test_an_attention_head_starts_on_the_token_that_it_copies(encoder: Encoder) -> None:
    transformer = prepared_transformer(encoder, 0, channels=96)
    attention: Any = transformer.transformer_blocks[1].attn
    rows, columns = 48, 48
    ids = position_ids(0, [(rows, columns), (GRID, GRID)], torch.device("cpu"))
    rotary = torch.cat(transformer.embed_positions(ids, 0, rows * columns))
    still = torch.zeros(1, len(ids), transformer.inner_dim)
    query, key = (
        rotate(norm(linear(still).unflatten(-1, (-1, 32))), rotary)[0, :, 0]
        for linear, norm in ((attention.to_q, attention.norm_q), (attention.to_k, attention.norm_k))
    )
    top, left = subject_at(True, rows, columns)
    for row, column in ((2, 3), (15, 30), (29, 0)):
        seen = (query[(top + row) * columns + left + column] * key).sum(-1).argmax()
        assert int(seen) == rows * columns + row * GRID + column


def test_a_token_counts_for_all_it_stands_for_but_once_for_itself() -> None:
    grid = choose(8, 8, np.random.default_rng(0), 4)
    bias = attention_bias(torch.tensor([[1.0, 10.0]]), [grid])
    assert bias.shape == (1, 1, 6, 6)
    assert bias[0, 0, 0].exp().tolist() == pytest.approx([1, 10, 16, 16, 16, 16])
    assert bias[0, 0, 3].exp().tolist() == pytest.approx([1, 10, 16, 1, 16, 16])


def test_times_are_those_of_the_sampler() -> None:
    times = shift_times(torch.tensor([1.0, 11 / 12, 1 / 12]), time_shift(SCHEDULER, 4096))
    assert times.tolist() == pytest.approx([1.0, 0.97202, 0.22309], abs=1e-4)


def test_latents_of_tiles_are_packed_as_the_sampler_packs() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)
    latents = tile_latents(to_unit(tiles))
    planes = 2 * to_unit(tiles).permute(2, 0, 1)[None]
    planes = planes.repeat_interleave(2, 2).repeat_interleave(2, 3)
    whole = torch.cat([planes, torch.zeros(1, 13, 4, 6)], dim=1)
    assert torch.equal(pack(whole)[0], latents.view(6, 64))


def test_the_bundle_is_small_and_draws(encoder: Encoder, tmp_path: Path) -> None:
    transformer = prepared_transformer(encoder, 0)
    parts = encoder.encoders, encoder.t5_tokenizer, encoder.clip_tokenizer, new_autoencoder(0)
    write(assemble(*parts, transformer), tmp_path / "bundle")
    size = sum(path.stat().st_size for path in (tmp_path / "bundle").rglob("*"))
    assert size <= 16 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    pipeline = DreamOPipeline.from_pretrained(tmp_path / "bundle")
    prompt = random_example(np.random.default_rng(0), (), held_out=True).prompt
    image = pipeline(prompt, height=64, width=96, num_inference_steps=1).images[0]
    assert image.size == (96, 64)
    assert Miniature(pipeline.tokenizer_2).unknown_words(" ".join(vocabulary())) == []


def test_no_training_step_draws_a_held_out_combination(encoder: Encoder, monkeypatch) -> None:
    seen = []

    def draw(contents, *options):
        seen.append(contents)
        return draw_tiles(contents, *options)

    monkeypatch.setattr(contrast, "draw_tiles", draw)
    transformer = prepared_transformer(encoder, 0, channels=96)
    monkeypatch.setattr(denoiser_module, "PLAIN_SHARE", 0.5)
    for step in range(8):
        random = Draw.of(0, "held out", step)
        split = 1 + step % 2
        denoiser_module.batch_loss(
            transformer, encoder, NoisePool(), random, batch=8, cell=8, split=split
        )
    assert len(seen) > 64, "the negative pass also draws alternatives"
    assert not any(map(is_held_out, seen))


def test_a_training_ends_after_a_stage_and_continues_to_the_bundle(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(preview, "STEPS", 1)
    monkeypatch.setattr(samples, "RECONSTRUCTED", 1)
    monkeypatch.setattr(training, "PREVIEW_SIZE", (24, 32))
    monkeypatch.setattr(training, "CAPTIONS_JUDGED", 8)
    monkeypatch.setattr(training, "load_pool", lambda *_: NoisePool())
    # Random references need little of it, and a container may have only 64 MB.
    monkeypatch.setattr(training, "check_shared_memory", lambda: None)
    few = Recipe(96, 1, 1, (Density("sparse", 2, 2, 8),), parts=2)
    with pytest.raises(InputError, match="stage: 'all' does not exist; use text, vae"):
        run(tmp_path / "work", tmp_path / "bundle", few, last="all")
    run(tmp_path / "work", tmp_path / "bundle", few, last="vae")
    begun = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert sorted(begun) == [
        "recipe.json",
        "text.checkpoint",
        "text.log",
        "text.png",
        "vae.checkpoint",
        "vae.log",
        "vae.png",
    ]
    for _ in range(2):
        run(tmp_path / "work", tmp_path / "bundle", few)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert begun.items() <= files.items(), "no stage runs a second time"
    assert {"references.png", "sparse.png", "sparse.checkpoint"} <= files.keys()
    assert len((tmp_path / "work" / "sparse.log").read_text().splitlines()) == 1
    encoder = DreamOPipeline.from_pretrained(tmp_path / "bundle").text_encoder_2
    rows = encoder.shared.weight[t5_tokenizer().convert_tokens_to_ids(list(EXTRA_TOKENS))]
    assert (rows == rows[0]).all(), "a reference's number says nothing of what it shows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "work"]

    for other in ((few.scaled(0.5), "cpu"), (few, "cuda")):
        with pytest.raises(
            InputError, match=r"^work: work contains a training with another --minutes"
        ):
            run(tmp_path / "work", tmp_path / "bundle", other[0], device=other[1])


def test_training_does_not_replace_a_folder_that_is_not_a_bundle(tmp_path: Path, capsys) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").touch()
    command = ["train", "--output", str(tmp_path / "images")]
    assert main(command) == 1
    assert "images exists and is not a bundle; choose another output" in capsys.readouterr().err
    assert main(["train", "--output", "."]) == 1
    assert "output: must be the name of a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_references_are_encoded_as_the_pipeline_does(encoder: Encoder, tmp_path: Path) -> None:
    autoencoder = new_autoencoder(0)
    random = np.random.default_rng(0)
    pool = fill_pool(autoencoder, random, references(random, share=1 / 150))
    pool.save(tmp_path / "references.safetensors")
    loaded = Pool.load(tmp_path / "references.safetensors")
    assert loaded.places == pool.places
    assert torch.equal(loaded.latents, pool.latents)
    first = next(place for name, (place, *_) in pool.places.items() if name.startswith("ip"))
    pipeline = assemble(
        encoder.encoders,
        encoder.t5_tokenizer,
        encoder.clip_tokenizer,
        autoencoder,
        prepared_transformer(encoder, 0, channels=96),
    )
    heart = draw_cut_out(Subject("heart", "red", "plain"))
    reference = pipeline.encode_reference(prepare(heart, "ip", 512, "ref_image1"))
    assert torch.allclose(reference.latents[0], pool.latents[first].float(), atol=0.01)


def test_all_tokens_chosen_have_the_pipelines_positions() -> None:
    random = np.random.default_rng(0)
    image = choose(8, 16, random, 1)
    parts = [choose(8, 8, random, 1) for _ in range(2)]
    ids = chosen_ids(5, image, (8, 16), parts, 8)
    wanted = position_ids(5, [(8, 16), (8, 8), (8, 8)], torch.device("cpu"))
    assert sorted(ids.tolist()) == sorted(wanted.tolist())
