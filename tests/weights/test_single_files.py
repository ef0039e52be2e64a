"""Fusing from ComfyUI's single files, and exporting the fused transformer as one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_vae_checkpoint,
)
from safetensors.torch import load_file, save_file

from dream_o.cli.weights import main
from dream_o.errors import BundleError
from dream_o.weights.build.bfl_layout import places, transformer_of, vae_of
from dream_o.weights.build.export import plan_export
from dream_o.weights.build.single_files import read_single
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.tensors import read_header, write_tensors
from tests.conftest import PARITY

Fused = Callable[[str, bool], Path]
BASE = PARITY / "base"
STEM = "diffusion_pytorch_model"
WIDTH = 3072  # diffusers' converter splits rows at FLUX.1's own width

# Part of a key of FLUX.1's single file -> rows of that tensor.
ROWS = {
    "qkv": 3 * WIDTH,
    "linear1": 7 * WIDTH,
    "mlp.0": 4 * WIDTH,
    "_mod.lin": 6 * WIDTH,
    "modulation.lin": 3 * WIDTH,
    "adaLN": 2 * WIDTH,
    "scale": 128,
    "": WIDTH,
}


@pytest.fixture(scope="module")
def tall() -> dict[str, torch.Tensor]:
    """FLUX.1's single file with two double and three single blocks and one column a matrix."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for key in places(2, 3):
        rows = next(count for part, count in ROWS.items() if part in key)
        shape = (rows, 1) if key.endswith(".weight") else (rows,)
        tensors[key] = torch.randn(shape, generator=random)
    return tensors


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_the_transformers_file_is_read_as_diffusers_reads_it(
    tall: dict[str, torch.Tensor], prefix: str, tmp_path: Path
) -> None:
    file = tmp_path / "flux1-dev.safetensors"
    others = {"first_stage_model.encoder.conv_in.bias": torch.ones(2)} if prefix else {}
    save_file({prefix + key: value for key, value in tall.items()} | others, file)
    ours = read_single("transformer", file)
    wanted = convert_flux_transformer_checkpoint_to_diffusers(dict(tall))
    assert ours.keys() == wanted.keys()
    for name, stored in ours.items():
        assert stored.shape == tuple(wanted[name].shape)
        assert torch.equal(stored.tensor(), wanted[name]), name
        assert b"".join(stored.blocks()) == wanted[name].contiguous().numpy().tobytes()


def test_an_exported_file_is_read_back_by_diffusers_to_the_same_bits(
    tall: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    half = {key: value.to(torch.bfloat16) for key, value in tall.items()}
    wanted = convert_flux_transformer_checkpoint_to_diffusers(dict(half))
    save_file({name: value.contiguous() for name, value in wanted.items()}, tmp_path / "ours")
    entries, _ = read_header(tmp_path / "ours")
    write_tensors(tmp_path / "exported", plan_export(entries))
    exported = load_file(tmp_path / "exported")
    assert exported.keys() == half.keys()
    read_back = convert_flux_transformer_checkpoint_to_diffusers(exported)
    assert read_back.keys() == wanted.keys()
    assert all(torch.equal(read_back[name], wanted[name]) for name in wanted)


def autoencoder(levels: int = 4, layers: int = 2) -> dict[str, torch.Tensor]:
    """The autoencoder's single file, every tensor with other values."""
    resnet = ("norm1", "conv1", "norm2", "conv2")
    parts = []
    for side, way, more in (("encoder", "down", 0), ("decoder", "up", 1)):
        parts += [f"{side}.{part}" for part in ("conv_in", "norm_out", "conv_out")]
        parts += [f"{side}.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
        parts += [f"{side}.mid.block_{number}.{part}" for number in (1, 2) for part in resnet]
        for level in range(levels):
            blocks = range(layers + more)
            parts += [f"{side}.{way}.{level}.block.{n}.{part}" for n in blocks for part in resnet]
        parts += [f"{side}.{way}.1.block.0.nin_shortcut"]
        sampled = range(levels - 1) if way == "down" else range(1, levels)
        parts += [f"{side}.{way}.{level}.{way}sample.conv" for level in sampled]
    tensors = {}
    for number, part in enumerate(parts):
        flat = "norm" in part.rpartition(".")[2]
        tensors[f"{part}.weight"] = torch.full((2,) if flat else (2, 2, 1, 1), float(number))
        tensors[f"{part}.bias"] = torch.full((2,), number + 0.5)
    return tensors


def test_the_autoencoders_file_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    tensors = autoencoder()
    save_file(tensors, tmp_path / "ae.safetensors")
    ours = vae_of(read_header(tmp_path / "ae.safetensors")[0])
    config = {"down_block_types": ["x"] * 4, "up_block_types": ["x"] * 4}
    wanted = convert_ldm_vae_checkpoint(dict(tensors), config)
    assert ours.keys() == wanted.keys()
    for name, stored in ours.items():
        assert torch.equal(stored.tensor(), wanted[name]), name


def test_a_bundle_from_single_files_has_the_bits_of_one_from_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base_file = BASE / "transformer" / f"{STEM}.safetensors"
    write_tensors(tmp_path / "flux1-dev.safetensors", plan_export(read_header(base_file)[0]))
    # An exported file is in 16 bits, so the folder to compare with is too.
    folder, small = tmp_path / "folder", tmp_path / "small"
    folder.mkdir()
    small.mkdir()
    for path in sorted(BASE.rglob("*")):
        for copy in (folder, small):
            target = copy / path.relative_to(BASE)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif copy is folder or path.suffix != ".safetensors" or path.parent.name == "vae":
                target.write_bytes(path.read_bytes())
    half = {name: value.to(torch.bfloat16) for name, value in load_file(base_file).items()}
    save_file(half, folder / "transformer" / base_file.name)

    fuse = ["fuse", "--adapters", str(PARITY / "adapters"), "--output"]
    assert main([*fuse, str(tmp_path / "a"), "--base", str(folder)]) == 0
    files = [
        f"--transformer={tmp_path / 'flux1-dev.safetensors'}",
        f"--clip={BASE / 'text_encoder' / 'model.safetensors'}",
        f"--t5={BASE / 'text_encoder_2' / 'model.safetensors'}",
    ]
    assert main([*fuse, str(tmp_path / "b"), "--base", str(small), *files]) == 0
    one, other = read_bundle(tmp_path / "a"), read_bundle(tmp_path / "b")
    # Tensors keep the order of their source, so this file's digest differs.
    fused_file = f"transformer/{STEM}.safetensors"
    assert {k: v for k, v in one.files.items() if k != fused_file} == {
        k: v for k, v in other.files.items() if k != fused_file
    }
    ours, wanted = (load_file(tmp_path / name / fused_file) for name in ("b", "a"))
    assert ours.keys() == wanted.keys()
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    assert "files/transformer/flux1-dev.safetensors" in other.sources

    output = tmp_path / "exported.safetensors"
    export = ["export", str(tmp_path / "a"), "--to", "comfyui", "--output", str(output)]
    assert main(export) == 0
    stored = transformer_of(read_header(output)[0], output.name)
    bundle = load_file(tmp_path / "a" / "transformer" / f"{STEM}.safetensors")
    assert bundle.keys() - stored.keys() == {"task_embedding.weight", "idx_embedding.weight"}
    assert all(torch.equal(each.tensor(), bundle[name]) for name, each in stored.items())
    capsys.readouterr()
    assert main(export) == 1
    assert "exported.safetensors exists" in capsys.readouterr().err


def test_8_bit_files_and_unknown_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    eight = tmp_path / "t5xxl_fp8.safetensors"
    save_file({"shared.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}, eight)
    with pytest.raises(BundleError, match="would round a second time; use the 16-bit file"):
        read_single("text_encoder_2", eight)
    strange = tmp_path / "sdxl.safetensors"
    save_file({"conditioner.weight": torch.ones(2, 2)}, strange)
    with pytest.raises(BundleError, match=r"conditioner\.weight is not a tensor of FLUX\.1"):
        read_single("transformer", strange)


def test_a_quantized_bundle_is_not_exported(
    tmp_path: Path, fused: Fused, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = fused("v1.1", True), tmp_path / "int8"
    folder.mkdir()
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True)
        elif path.name != "bundle.json":
            target.symlink_to(path)
    held = json.loads((source / "bundle.json").read_text()) | {"precision": "int8"}
    (folder / "bundle.json").write_text(json.dumps(held))
    output = tmp_path / "x.safetensors"
    assert main(["export", str(folder), "--to", "comfyui", "--output", str(output)]) == 1
    assert "is quantized to int8; export the bundle it was made from" in capsys.readouterr().err
    assert not output.exists()
