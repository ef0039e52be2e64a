"""int4 bundles: their size, their error, and what their layers compute."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dream_o import int4_linear
from dream_o.errors import BundleError
from dream_o.int4_linear import GROUP, Int4Linear, in_four_bits, packed, unpacked
from dream_o.pipeline import DreamOPipeline
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.quantized import is_quantized, quantized_bytes
from dream_o.weights.format.tensors import read_model
from tests.pipelines import pipeline_of

STEM = "diffusion_pytorch_model"
Fused = Callable[[str, bool], Path]


@pytest.fixture(scope="module")
def int4(quantized: Callable[[str], Path]) -> Path:
    return quantized("int4")


def latents_of(pipeline: DreamOPipeline, prompt: str, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"height": 96, "width": 128, "num_inference_steps": 4}
    latents = pipeline(prompt, generator=generator, output_type="latent", **options).images
    return latents.float()


def matrix(rows: int = 48, columns: int = 96) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def dequantized(given: torch.Tensor, rounds: int) -> torch.Tensor:
    levels, scale, offset = in_four_bits(given, torch.bfloat16, rounds)
    groups = levels.unflatten(1, (-1, GROUP)).float()
    return (groups * scale.float()[..., None] + offset.float()[..., None]).flatten(1)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_the_linear_layers_take_at_most_16_percent_of_float32(fused: Fused, int4: Path) -> None:
    before = read_model(fused("v1.1", True) / "transformer", STEM)
    after = read_model(int4 / "transformer", STEM)
    total = stored = 0
    for name, entry in before.items():
        if not is_quantized("transformer", name, len(entry.shape)):
            assert after[name].dtype == torch.bfloat16
            continue
        module = name.removesuffix("weight")
        parts = [each for key, each in after.items() if key.startswith(f"{module}_weight_")]
        size = sum(each.end - each.start for each in parts)
        assert size == quantized_bytes("int4", entry.shape)
        total += 4 * entry.shape[0] * entry.shape[1]
        stored += size
    assert stored <= 0.16 * total


def test_t5_is_int8(int4: Path) -> None:
    stored = read_model(int4 / "text_encoder_2", "model")
    dtypes = {each.dtype for name, each in stored.items() if name.endswith("_qdata")}
    assert dtypes == {torch.int8}
    assert any(name.endswith("wi_0._weight_scale") for name in stored)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_latents_are_within_12_percent(fused: Fused, int4: Path, dtype: torch.dtype) -> None:
    before, after = pipeline_of(fused("v1.1", True), dtype), pipeline_of(int4, dtype)
    for seed, prompt in enumerate(("a hill", "a dog in the snow")):
        wanted = latents_of(before, prompt, seed)
        assert 0 < difference(latents_of(after, prompt, seed), wanted) <= 0.12


def test_loading_does_not_quantize(int4: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4_linear, "in_four_bits", lambda *_: pytest.fail("was quantized"))
    blocks = DreamOPipeline.from_pretrained(int4).transformer.transformer_blocks
    layer = blocks[0].attn.to_q
    assert isinstance(layer, Int4Linear)
    assert isinstance(blocks[0].norm1.linear, Int4Linear)
    assert layer.qdata.nelement() == layer.scale.nelement() * GROUP // 2


def test_rows_that_cannot_be_divided_into_groups_are_refused(
    fused: Fused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dream_o.weights.build.quantize.GROUP", 48)
    with pytest.raises(BundleError, match=r"rows of \d+ numbers, which cannot be divided"):
        quantize(fused("v1.1", True), "int4", tmp_path / "int4")
    assert not (tmp_path / "int4").exists()


def test_two_levels_are_packed_into_a_byte_and_unpacked() -> None:
    levels = torch.arange(-8, 8, dtype=torch.int8).repeat(2, 2)
    assert packed(levels).shape == (2, 16)
    assert torch.equal(unpacked(packed(levels)), levels)


def test_least_squares_reduce_the_error() -> None:
    given = matrix()
    by_range, fitted = (difference(dequantized(given, rounds), given) for rounds in (0, 5))
    assert fitted < 0.95 * by_range < 0.08


def test_a_constant_or_empty_group_stays_as_it_is() -> None:
    given = torch.cat([torch.zeros(2, GROUP), torch.full((2, GROUP), 0.5)], dim=1)
    assert torch.equal(dequantized(given, 5), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_layer_multiplies_by_its_dequantized_matrix(dtype: torch.dtype) -> None:
    levels, scale, offset = in_four_bits(matrix(), torch.bfloat16)
    bias = torch.randn(48).to(dtype)
    layer = Int4Linear(packed(levels), scale, offset, bias)
    tokens = torch.randn(2, 5, 96).to(dtype)
    weight = dequantized(matrix(), int4_linear.ROUNDS).to(dtype)
    assert torch.equal(layer(tokens), torch.nn.functional.linear(tokens, weight, bias))
