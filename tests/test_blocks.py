"""The transformer's blocks at the edges of their dtypes."""

import pytest
import torch

from dream_o.blocks import DOUBLE_ROWS, SINGLE_ROWS, DoubleBlock, SingleBlock

DIM, HEADS, HEAD_DIM = 32, 2, 16
LARGEST = torch.finfo(torch.float16).max


def inputs(tokens: int, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens near the end of float16's range, and modulation whose sums leave it."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(1, tokens, DIM, generator=generator).sign()
    rotary = torch.stack([torch.ones(tokens, HEAD_DIM // 2), torch.zeros(tokens, HEAD_DIM // 2)], 2)
    modulation = torch.full((1, rows, DIM), 100.0).half()
    return (signs * 0.999 * LARGEST).half(), modulation, rotary


@torch.no_grad()
def test_float16_tokens_stay_finite_in_a_single_stream_block() -> None:
    torch.manual_seed(0)
    block = SingleBlock(DIM, HEADS, HEAD_DIM).half()
    tokens, modulation, rotary = inputs(6, SINGLE_ROWS)
    made = block(tokens, modulation, rotary, None)
    assert made.isfinite().all()
    assert made.abs().max() == LARGEST, "none of the sums left the range"


@torch.no_grad()
def test_float16_tokens_stay_finite_in_a_double_stream_block() -> None:
    torch.manual_seed(0)
    block = DoubleBlock(DIM, HEADS, HEAD_DIM).half()
    tokens, modulation, rotary = inputs(6, DOUBLE_ROWS)
    for made in block(tokens[:, :2], tokens[:, 2:], modulation, rotary, None):
        assert made.isfinite().all()
        assert made.abs().max() == LARGEST, "none of the sums left the range"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_other_dtypes_keep_tokens_beyond_the_range_of_float16(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = SingleBlock(DIM, HEADS, HEAD_DIM).to(dtype)
    tokens, modulation, rotary = inputs(6, SINGLE_ROWS)
    made = block(8 * tokens.to(dtype), 0 * modulation.to(dtype), rotary, None)
    assert made.abs().min() > 4 * LARGEST
