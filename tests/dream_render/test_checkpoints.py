"""Checkpoints from folders and single files, and the cache that bounds them."""

import gc
import re
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dream_o.dream_render import checkpoints
from dream_o.dream_render.checkpoints import (
    CONFIGS,
    CheckpointCache,
    checkpoint_bytes,
    load_checkpoint,
)
from dream_o.dream_render.painting import paint
from dream_o.dream_render.registry import FAMILIES, ModelEntry, Source
from dream_o.errors import InputError
from tests.dream_render.tiny_checkpoints import save_single_file, tiny_pipeline

CPU = torch.device("cpu")


def painted(pipeline: Any) -> np.ndarray:
    image = paint(
        pipeline,
        "a shoe",
        "blur",
        width=64,
        height=64,
        steps=2,
        cfg_scale=5.0,
        seed=1,
        hires=False,
    )
    return np.asarray(image).astype(int)


def entry(source: Path, family: str, **sources: Path) -> ModelEntry:
    named = {name: Source(str(path)) for name, path in sources.items()}
    return ModelEntry(
        name=source.name,
        family=family,
        source=Source(str(source)),
        licence="-",
        summary="-",
        **named,
    )


def load(each: ModelEntry) -> Any:
    return load_checkpoint(each, CPU, torch.float32)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection fails the test."""

    def refuse(*_: Any) -> None:
        raise AssertionError("no connection may be opened")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("offline")
def test_folder_and_single_file_give_the_original_image(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny_pipeline(family)
    folder, file = tmp_path / "folder", tmp_path / "whole.safetensors"
    original.save_pretrained(folder)
    save_single_file(original, file)
    # A single file takes its shapes from the project's configs: here, from the tiny ones.
    monkeypatch.setattr(checkpoints, "CONFIGS", tmp_path / "configs")
    original.save_pretrained(tmp_path / "configs" / family)
    for weights in (tmp_path / "configs").rglob("*.safetensors"):
        weights.unlink()

    from_folder = load(entry(folder, family))
    expected = painted(from_folder)
    assert expected.std() > 0
    from_file = load(entry(file, family, tokenizer=folder))
    # Another layout of the same weights in memory rounds the last bit otherwise.
    assert np.abs(painted(from_file) - expected).max() <= 1
    assert type(from_file.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert from_file.scheduler.config.use_karras_sigmas
    assert from_file.scheduler.config.algorithm_type == "dpmsolver++"
    assert from_file.scheduler.config.solver_order == 2

    parameters = sum(
        each.numel()
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        if hasattr(original, name)
        for each in getattr(original, name).parameters()
    )
    for each in (entry(folder, family), entry(file, family, tokenizer=folder)):
        assert checkpoint_bytes(each, torch.float32) == pytest.approx(4 * parameters, rel=0.02)
        assert checkpoint_bytes(each, torch.bfloat16) == pytest.approx(2 * parameters, rel=0.02)


@pytest.mark.usefixtures("offline")
def test_a_vae_of_its_own_takes_the_place_of_the_checkpoints(tmp_path: Path) -> None:
    tiny_pipeline("sd15").save_pretrained(tmp_path / "folder")
    tiny_pipeline("sd15", seed=9).vae.save_pretrained(tmp_path / "vae")
    plain = load(entry(tmp_path / "folder", "sd15"))
    shutil.rmtree(tmp_path / "folder" / "vae")  # as `download` leaves such a folder
    replaced = load(entry(tmp_path / "folder", "sd15", vae=tmp_path / "vae"))
    assert not np.array_equal(painted(plain), painted(replaced))
    same = zip(plain.unet.parameters(), replaced.unet.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)


@pytest.mark.usefixtures("offline")
def test_a_single_file_without_a_vae_is_run_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny_pipeline("sd15")
    original.save_pretrained(tmp_path / "folder")
    original.save_pretrained(tmp_path / "configs" / "sd15")
    monkeypatch.setattr(checkpoints, "CONFIGS", tmp_path / "configs")
    whole, without = tmp_path / "whole.safetensors", tmp_path / "without.safetensors"
    save_single_file(original, whole)
    kept = {
        name: tensor
        for name, tensor in load_file(whole).items()
        if not name.startswith("first_stage_model.")
    }
    save_file(kept, without)
    sources = {"vae": tmp_path / "folder" / "vae", "tokenizer": tmp_path / "folder"}
    expected = painted(load(entry(whole, "sd15", tokenizer=tmp_path / "folder")))
    found = painted(load(entry(without, "sd15", **sources)))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("single", [False, True])
def test_a_vae_of_its_own_is_counted_in_place_of_the_checkpoints(
    single: bool, tmp_path: Path
) -> None:
    original = tiny_pipeline("sd15")
    original.save_pretrained(tmp_path / "folder")
    source = tmp_path / "folder"
    if single:
        source = tmp_path / "whole.safetensors"
        save_single_file(original, source)
    # Another size than the checkpoint's, to tell them apart.
    vae = AutoencoderKL(norm_num_groups=2, block_out_channels=(16,))
    vae.save_pretrained(tmp_path / "vae")
    tokenizer = {"tokenizer": tmp_path / "folder"} if single else {}
    plain = checkpoint_bytes(entry(source, "sd15", **tokenizer), torch.float32)
    replaced = entry(source, "sd15", vae=tmp_path / "vae", **tokenizer)

    def held(part: torch.nn.Module) -> int:
        return 4 * sum(each.numel() for each in part.parameters())

    expected = plain - held(original.vae) + held(vae)
    assert checkpoint_bytes(replaced, torch.float32) == expected
    if not single:
        shutil.rmtree(source / "vae")  # as `download` leaves a folder whose VAE is replaced
        assert checkpoint_bytes(replaced, torch.float32) == expected


# Parameters as the model cards and papers count them: SD 1.5 (860 M, 123 M, 84 M) and SDXL
# (2.6 G, 123 M, 695 M, 84 M; arXiv:2307.01952, table 1).
SIZES = {
    "sd15": {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863},
    "sdxl": {
        "unet": 2_567_463_684,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
        "vae": 83_653_863,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shipped_configs_describe_the_real_models(family: str) -> None:
    classes = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    for part, size in SIZES[family].items():
        folder = CONFIGS / family / part
        with torch.device("meta"):
            if part.startswith("text"):
                model = classes[part](CLIPTextConfig.from_pretrained(folder))
            else:
                model = classes[part].from_config(classes[part].load_config(folder))
        assert sum(each.numel() for each in model.parameters()) == size, part


def damaged(folder: Path) -> Iterator[Path]:
    whole = tiny_pipeline("sd15")
    for name in ("missing", "cut", "mistaken"):
        whole.save_pretrained(folder / name)
    (folder / "missing" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    weights = folder / "cut" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (folder / "mistaken" / "unet" / "config.json").write_text("{")
    yield from (folder / name for name in ("missing", "cut", "mistaken"))


def test_a_damaged_checkpoint_is_refused_without_a_path(tmp_path: Path) -> None:
    for folder in damaged(tmp_path):
        sentence = f"model: {folder.name}: its files are missing, damaged or of another kind"
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            load(entry(folder, "sd15"))


def test_one_that_is_not_here_is_refused_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load(entry(tmp_path / "absent", "sd15"))
    assert "dream-o render download absent" in str(error.value)
    assert str(tmp_path) not in str(error.value)


class Resident:
    """Stands for a loaded pipeline; who holds it decides whether it lives."""


@pytest.mark.parametrize(("limit", "at_most"), [(100, 1), (159, 1), (160, 2), (10, 1)])
def test_the_cache_holds_what_the_limit_allows_even_while_it_loads(
    limit: int, at_most: int, tmp_path: Path
) -> None:
    loads: list[str] = []
    alive: weakref.WeakSet[Resident] = weakref.WeakSet()

    def load_one(each: ModelEntry) -> Resident:
        gc.collect()
        assert len(alive) < at_most  # room is made first
        loads.append(each.name)
        resident = Resident()
        alive.add(resident)
        return resident

    cache = CheckpointCache(limit, load_one, lambda each: 80)
    one, two, three = (entry(tmp_path / name, "sd15") for name in ("one", "two", "three"))
    first = cache.get(one)
    assert cache.get(one) is first
    del first
    assert loads == ["one"]
    for each in (two, two, one, two):
        cache.get(each)
    assert loads == (["one", "two"] if at_most == 2 else ["one", "two", "one", "two"])
    cache.get(three)  # takes the place of the least recently used
    assert list(cache.loaded) == (["two", "three"] if at_most == 2 else ["three"])


def test_a_load_that_fails_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    def load_one(each: ModelEntry) -> Resident:
        if each.name == "bad":
            raise InputError("model", "bad")
        return Resident()

    cache = CheckpointCache(1000, load_one, lambda each: 80)
    good, bad = (entry(tmp_path / name, "sd15") for name in ("good", "bad"))
    kept = cache.get(good)
    with pytest.raises(InputError):
        cache.get(bad)
    assert cache.get(good) is kept
    assert list(cache.loaded) == ["good"]
