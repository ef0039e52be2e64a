"""A damaged or foreign bundle is refused with one sentence that names the file."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dream_o.errors import BundleError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.weights.format.bundle import is_bundle, read_bundle, seal
from dream_o.weights.format.load import load_components

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def bundle(fused: Callable[[str, bool], Path], tmp_path: Path) -> Path:
    """A copy of a bundle, to damage."""
    return Path(shutil.copytree(fused("v1.1", True), tmp_path / "bundle"))


def flip(path: Path, at: int) -> None:
    """Changes one bit of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def refusal(bundle: Path) -> str:
    """The message with which loading fails."""
    with pytest.raises(BundleError) as raised:
        load_components(bundle)
    assert "\n" not in str(raised.value)
    assert str(bundle) not in str(raised.value)
    return str(raised.value)


def test_a_complete_bundle_loads_with_the_dtype_of_its_files(bundle: Path) -> None:
    components = load_components(bundle)
    assert components["transformer"].dtype == torch.float32
    assert not components["transformer"].training
    assert load_components(bundle, torch.bfloat16)["text_encoder_2"].dtype == torch.bfloat16


def test_the_embedded_miniature_is_complete_and_small() -> None:
    assert load_components(EMBEDDED_BUNDLE)["transformer"] is not None
    size = sum(path.stat().st_size for path in EMBEDDED_BUNDLE.rglob("*") if path.is_file())
    assert size <= 16 << 20


@pytest.mark.parametrize("at", [-1, 1_000_000, 300], ids=["end", "middle", "header"])
@pytest.mark.parametrize("name", [TRANSFORMER, "text_encoder_2/model.safetensors"])
def test_one_flipped_byte(bundle: Path, name: str, at: int) -> None:
    flip(bundle / name, min(at, (bundle / name).stat().st_size // 2))
    assert name in refusal(bundle)


@pytest.mark.parametrize(
    "name", ["transformer/config.json", "tokenizer/vocab.json", "tokenizer_2/tokenizer.json"]
)
def test_one_flipped_byte_of_a_small_file(bundle: Path, name: str) -> None:
    flip(bundle / name, 20)
    assert refusal(bundle) == f"{name} is damaged: its SHA-256 is not the one in bundle.json"


def test_a_truncated_file(bundle: Path) -> None:
    path = bundle / TRANSFORMER
    path.write_bytes(path.read_bytes()[:-1])
    size = path.stat().st_size
    assert refusal(bundle) == f"{TRANSFORMER} is damaged: {size} bytes, not {size + 1}"


@pytest.mark.parametrize(
    "name", [TRANSFORMER, "vae/config.json", "scheduler/scheduler_config.json", "model_index.json"]
)
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert refusal(bundle) == f"{name} is missing from the weights bundle"


def test_a_missing_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dream_o.weights.build.fuse import fuse
    from tests.conftest import PARITY

    monkeypatch.setattr("dream_o.weights.format.tensors.SHARD", 800_000)
    fuse(PARITY / "base", PARITY / "adapters", "v1.1", tmp_path / "bundle")
    name = "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"
    (tmp_path / "bundle" / name).unlink()
    assert refusal(tmp_path / "bundle") == f"{name} is missing from the weights bundle"


def test_the_model_index_of_another_pipeline(bundle: Path) -> None:
    index = json.loads((bundle / "model_index.json").read_text())
    index["transformer"] = ["os", "system"]
    (bundle / "model_index.json").write_text(json.dumps(index))
    seal(bundle, read_raw(bundle))  # even one that bundle.json vouches for
    assert refusal(bundle) == "model_index.json is not that of a DreamO bundle"


def read_raw(bundle: Path):  # type: ignore[no-untyped-def]
    """The Bundle of a bundle.json, without a check of the files."""
    from dream_o.weights.format.bundle import Bundle

    raw = json.loads((bundle / "bundle.json").read_text())
    del raw["format"]
    return Bundle(**raw)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("place_of", [None, TRANSFORMER, "text_encoder/model.safetensors"])
def test_no_pickle_is_opened(bundle: Path, tmp_path: Path, place_of: str | None) -> None:
    name = "transformer/diffusion_pytorch_model.bin"
    if place_of:
        (bundle / place_of).unlink()
        name = f"{place_of.removesuffix('.safetensors')}.bin".replace("/model.", "/pytorch_model.")
    (bundle / name).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    assert refusal(bundle) == f"{name} is a pickle; a weights bundle holds safetensors only"
    assert not (tmp_path / "opened").exists()


def test_a_pickle_under_a_safetensors_name_is_not_opened(bundle: Path, tmp_path: Path) -> None:
    (bundle / TRANSFORMER).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    seal(bundle, read_raw(bundle))
    assert refusal(bundle) == f"{TRANSFORMER} is not a safetensors file"
    assert not (tmp_path / "opened").exists()


def test_a_file_that_does_not_belong(bundle: Path) -> None:
    (bundle / "text_encoder/adapter_config.json").write_text("{}")
    assert refusal(bundle) == (
        "text_encoder/adapter_config.json does not belong in the weights bundle"
    )
    seal(bundle, read_raw(bundle))
    assert "text_encoder/adapter_config.json" in refusal(bundle)


def test_files_that_the_hub_adds_beside_a_bundle_are_ignored(bundle: Path) -> None:
    (bundle / "README.md").write_text("mine")
    (bundle / ".gitattributes").write_text("")
    (bundle / ".cache").mkdir()
    (bundle / ".cache/anything.bin").write_text("")
    assert load_components(bundle)["vae"] is not None


def test_an_index_that_names_a_file_outside_the_folder(tmp_path: Path, bundle: Path) -> None:
    index = bundle / "transformer/diffusion_pytorch_model.safetensors.index.json"
    shutil.copy(bundle / TRANSFORMER, tmp_path / "stolen.safetensors")
    index.write_text(json.dumps({"weight_map": {"proj_out.weight": "../../stolen.safetensors"}}))
    seal(bundle, read_raw(bundle))
    assert "names a file outside its folder" in refusal(bundle)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "\xff"])
def test_a_bundle_json_that_cannot_be_read(bundle: Path, content: str) -> None:
    (bundle / "bundle.json").write_text(content, encoding="latin-1")
    assert "bundle.json" in refusal(bundle)


def test_a_folder_that_is_not_a_bundle(tmp_path: Path) -> None:
    assert not is_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="'nowhere' does not exist"):
        read_bundle(tmp_path / "nowhere")


def test_the_model_index_is_the_one_that_save_pretrained_writes(
    bundle: Path, tmp_path: Path
) -> None:
    from dream_o.pipeline import DreamOPipeline

    DreamOPipeline.from_pretrained(bundle).save_pretrained(tmp_path / "saved")
    saved, ours = (
        json.loads((folder / "model_index.json").read_text())
        for folder in (tmp_path / "saved", bundle)
    )
    assert saved == ours


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        (TRANSFORMER, "proj_out.bias", "transformer: proj_out.bias is missing from the"),
        (TRANSFORMER, "stray", "transformer: stray does not belong in the"),
        ("text_encoder_2/model.safetensors", "shared.weight", "text_encoder_2: "),
        ("text_encoder_2/model.safetensors", "stray", "text_encoder_2: stray does not belong"),
        ("vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.bias", "vae: decoder.conv_in"),
    ],
)
def test_a_tensor_too_few_or_too_many(bundle: Path, name: str, key: str, message: str) -> None:
    tensors = load_file(bundle / name)
    if key in tensors:
        del tensors[key]
    else:
        tensors[key] = torch.ones(1)
    save_file(tensors, bundle / name, metadata={"format": "pt"})
    seal(bundle, read_raw(bundle))  # even one that bundle.json vouches for
    assert refusal(bundle).startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_version": 1},
        {"turbo": "yes"},
        {"precision": None},
        {"sources": []},
        {"files": {"vae/config.json": {"bytes": "1", "sha256": "0"}}},
        {"files": {"vae/config.json": {"bytes": 1, "sha256": 0}}},
    ],
)
def test_a_bundle_json_with_a_field_of_another_type(
    bundle: Path, changes: dict[str, object]
) -> None:
    raw = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(raw | changes))
    assert refusal(bundle) == "bundle.json cannot be read"
