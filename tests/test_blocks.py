"""The transformer's blocks at the edges of their dtypes."""

import pytest
import torch

from dream_o.blocks import DoubleBlock, SingleBlock

DIM, HEADS, HEAD_DIM = 32, 2, 16
LARGEST = torch.finfo(torch.float16).max


def with_large_gates(block: torch.nn.Module) -> torch.nn.Module:
    """The block with modulation so large that its sums leave float16's range."""
    block.half()
    for name, parameter in block.named_parameters():
        if name.endswith("linear.bias"):
            parameter.data.fill_(100.0)
    return block


def inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(1, tokens, DIM, generator=generator).sign()
    rotary = torch.stack([torch.ones(tokens, HEAD_DIM // 2), torch.zeros(tokens, HEAD_DIM // 2)], 2)
    return (signs * 0.999 * LARGEST).half(), torch.zeros(1, DIM).half(), rotary


@torch.no_grad()
def test_float16_tokens_stay_finite_in_a_single_stream_block() -> None:
    torch.manual_seed(0)
    block = with_large_gates(SingleBlock(DIM, HEADS, HEAD_DIM))
    tokens, temb, rotary = inputs(6)
    made = block(tokens, temb, rotary, None)
    assert made.isfinite().all()
    assert made.abs().max() == LARGEST, "none of the sums left the range"


@torch.no_grad()
def test_float16_tokens_stay_finite_in_a_double_stream_block() -> None:
    torch.manual_seed(0)
    block = with_large_gates(DoubleBlock(DIM, HEADS, HEAD_DIM))
    tokens, temb, rotary = inputs(6)
    for made in block(tokens[:, :2], tokens[:, 2:], temb, rotary, None):
        assert made.isfinite().all()
        assert made.abs().max() == LARGEST, "none of the sums left the range"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.no_grad()
def test_other_dtypes_keep_tokens_beyond_the_range_of_float16(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block = SingleBlock(DIM, HEADS, HEAD_DIM).to(dtype)
    tokens, temb, rotary = inputs(6)
    made = block(8 * tokens.to(dtype), temb.to(dtype), rotary, None)
    assert made.abs().min() > 4 * LARGEST
