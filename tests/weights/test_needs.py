"""The GPU memory that a bundle of FLUX.1-dev's size needs, estimated from headers alone."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dream_o.runtime.memory_needs import by_plan
from dream_o.weights.build.info import describe, table
from dream_o.weights.format.bundle import read_record, seal
from dream_o.weights.format.digests import FileRecord
from dream_o.weights.format.layout import WEIGHTED

GB = 10**9


def full_size_models() -> dict[str, tuple[torch.nn.Module, dict[str, object]]]:
    """FLUX.1-dev's transformer and T5 without data, and the parts of their configs that matter."""
    from transformers import T5Config, T5EncoderModel

    from dream_o.transformer import DreamOTransformer2DModel

    config = T5Config(
        vocab_size=32110,
        d_model=4096,
        d_ff=10240,
        d_kv=64,
        num_heads=64,
        num_layers=24,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        return {
            "transformer": (
                DreamOTransformer2DModel(),
                {"num_attention_heads": 24, "attention_head_dim": 128},
            ),
            "text_encoder_2": (T5EncoderModel(config), {"num_layers": 24}),
        }


@pytest.fixture
def full_size(
    fused: Callable[[str, bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A bundle whose two large files have real headers, and holes for data."""
    bundle = Path(shutil.copytree(fused("v1.1", True), tmp_path / "bundle"))
    for name, (model, config) in full_size_models().items():
        header, end = {}, 0
        for key, tensor in model.state_dict().items():
            if key == "encoder.embed_tokens.weight":  # tied to shared.weight
                continue
            start, end = end, end + 2 * tensor.numel()
            header[key] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [start, end],
            }
        encoded = json.dumps(header).encode()
        with (bundle / name / f"{WEIGHTED[name]}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            file.truncate(8 + len(encoded) + end)
        path = bundle / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
    monkeypatch.setattr(
        "dream_o.weights.format.bundle.record",
        lambda path: FileRecord(path.stat().st_size, "0" * 64),
    )
    seal(bundle, read_record(bundle / "bundle.json"))
    return bundle


def test_the_real_size(full_size: Path) -> None:
    description = describe(full_size)
    models = description.models
    assert models["transformer"].parameters == 11_901_408_320 + 12 * 3072  # FLUX.1 and the tables
    assert models["text_encoder_2"].bytes == pytest.approx(9.52 * GB, rel=0.01)
    bfloat16, int8 = (by_plan(description.needed[kind]) for kind in ("bfloat16", "int8"))
    assert 34 * GB < bfloat16["none"] < 38 * GB  # the weights, and a few gigabytes of activations
    assert bfloat16["text"] < 28 * GB
    assert bfloat16["modulation"] < 22 * GB  # a 24 GB card
    assert bfloat16["blocks"] < 6 * GB
    assert 17 * GB < int8["none"] < 20 * GB
    assert int8["modulation"] < 12 * GB
    sizes = description.needed["bfloat16"]
    assert sum(sizes.modulation) == pytest.approx(6.46 * GB, rel=0.01)
    assert [len(each) for each in (sizes.t5, sizes.modulation)] == [24, 77]
    lines = table(description).splitlines()
    assert any(line.startswith("int8 ") and "modulation" in line for line in lines)
    assert any(line.startswith("24 GB") and "bfloat16" in line for line in lines)
