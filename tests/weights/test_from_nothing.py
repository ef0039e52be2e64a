"""The README's commands from an empty folder to a bundle, with the project's manifest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dream_o.cli.weights import main
from dream_o.weights.format.bundle import read_bundle
from tests import ROOT
from tests.conftest import PARITY
from tests.weights.hub_server import Hub, serving
from tests.weights.test_fuse import shard


def hub_files(folder: Path) -> dict[str, bytes]:
    """The parity model's files, under the names of the real model's files on the hub."""
    base = Path(shutil.copytree(PARITY / "base", folder / "base"))
    (base / "LICENSE.md").write_text("the licence of the base model")
    shard(base / "transformer", "diffusion_pytorch_model", 3)
    shard(base / "text_encoder_2", "model", 2)
    files = {
        f"black-forest-labs/FLUX.1-dev/{path.relative_to(base).as_posix()}": path.read_bytes()
        for path in base.rglob("*")
        if path.is_file()
    }
    for path in (PARITY / "adapters").rglob("*.safetensors"):
        name = path.relative_to(PARITY / "adapters").as_posix()
        files[f"ByteDance/DreamO/{name}"] = path.read_bytes()
    turbo = files.pop("ByteDance/DreamO/turbo.safetensors")
    files["alimama-creative/FLUX.1-Turbo-Alpha/diffusion_pytorch_model.safetensors"] = turbo
    return files


def test_download_verify_fuse_quantize(
    tmp_path: Path,
    fused: Callable[[str, bool], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    shutil.copy(ROOT / "weights/manifest.toml", weights)
    monkeypatch.setenv("HF_TOKEN", "mine")
    bundle, small = str(weights / "dream-o-v1.1"), str(weights / "dream-o-int8")
    with serving(Hub(hub_files(tmp_path), token="mine")) as hub:
        monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: hub.url)
        for command in (
            ["download"],
            ["verify"],
            ["list"],
            ["fuse", "--output", bundle],
            ["quantize", bundle, "--to", "int8", "--output", small],
            ["info", small],
        ):
            assert main(["--folder", str(weights), *command]) == 0
    made, known = read_bundle(Path(bundle)), read_bundle(fused("v1.1", True))
    assert (made.model_version, made.turbo) == ("v1.1", True)
    for each in (bundle, small):
        assert Path(each, "LICENSE").read_text() == "the licence of the base model"
    for name, record in known.files.items():
        if name.startswith(("tokenizer", "scheduler", "vae", "text_encoder/")):
            assert made.files[name] == record
    assert "whole: flux-dev, flux-dev-config, dreamo, dreamo-v1.1, turbo" in capsys.readouterr().out
    damaged = weights / "adapters/turbo.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    other = str(weights / "other")
    assert main(["--folder", str(weights), "fuse", "--output", other]) == 1
    assert (
        "adapters/turbo.safetensors has changed since it was downloaded" in capsys.readouterr().err
    )
    assert not Path(other).exists()
    own = ["--adapters", str(weights / "adapters")]  # a user's own files are taken as they are
    assert main(["--folder", str(weights), "fuse", *own, "--output", other]) == 0
