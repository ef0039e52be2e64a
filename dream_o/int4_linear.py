"""Linear layers with weights in four bits: plain tensors and plain operations, on every device.

torchao 0.18 has a tensor for such weights, in which bundles store them, but its product is for
CUDA only and needs a package that is not there. Here the weights become the tokens' dtype before
the product; compiled code does so in one pass.
"""

from typing import Any

import torch
from torch import nn

GROUP = 32
"""Weights that share a scale and an offset, so that each takes five bits in all."""

# Rounds of least squares after which the scales of a group hardly change: docs/weights.md.
ROUNDS = 5
LEVELS = 15


def in_four_bits(
    matrix: torch.Tensor, dtype: torch.dtype, rounds: int = ROUNDS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A matrix as levels, scales and offsets, such that `level * scale + offset` is near to it.

    A group starts with the range of its values. Then levels and the line through them are fitted in
    turn: the line of least squares for the levels, the nearest levels for the line.

    Args:
        matrix: `(out, in)` float32, `in` a multiple of GROUP.
        dtype: of scales and offsets, bfloat16 or float16.
        rounds: of fitting; 0 keeps the range.

    Returns:
        Levels `(out, in)` int8 from -8 to 7; scales and offsets, each `(out, in / GROUP)`.
    """
    values = matrix.unflatten(1, (-1, GROUP))
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    tiny = torch.finfo(torch.float32).tiny
    scale, start = ((high - low) / LEVELS).clamp_min(tiny), low
    for _ in range(rounds):
        levels = ((values - start) / scale).round_().clamp_(0, LEVELS)
        mean_level, mean = levels.mean(-1, keepdim=True), values.mean(-1, keepdim=True)
        levels -= mean_level
        slope = (levels * (values - mean)).sum(-1, keepdim=True)
        slope /= levels.square().sum(-1, keepdim=True).clamp_min(tiny)
        scale = torch.where(slope > 0, slope, scale)
        start = mean - scale * mean_level
    # Levels are from -8 on, so the offset is that of level 0.
    scale = scale.to(dtype)
    offset = (start + 8 * scale.float()).to(dtype)
    nearest = (values - offset.float()) / scale.float().clamp_min(tiny)
    levels = nearest.round_().clamp_(-8, 7).to(torch.int8).flatten(1)
    return levels, scale.squeeze(-1), offset.squeeze(-1)


def packed(levels: torch.Tensor) -> torch.Tensor:
    """Levels `(out, in)` from -8 to 7, two to a byte: `(out, in / 2)` int8, the first one low."""
    low, high = levels[:, ::2], levels[:, 1::2]
    return (low & 15) | (high << 4)


def unpacked(data: torch.Tensor) -> torch.Tensor:
    """The inverse of `packed`."""
    # Shifts of int8 keep the sign.
    return torch.stack([(data << 4) >> 4, data >> 4], dim=-1).flatten(1)


class Int4Linear(nn.Module):
    """`tokens @ (levels * scale + offset).T + bias`.

    Attributes:
        qdata: `(out, in / 2)` int8, the levels as `packed` has them.
        scale, offset: `(out, in / GROUP)`, bfloat16 or float16.
        bias: `(out,)` or None.
    """

    def __init__(
        self,
        qdata: torch.Tensor,
        scale: torch.Tensor,
        offset: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> None:
        """Takes the tensors as they are; nothing is copied."""
        super().__init__()
        self.qdata = nn.Parameter(qdata, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.offset = nn.Parameter(offset, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(..., in)` to `(..., out)`, in the tokens' dtype."""
        return nn.functional.linear(tokens, self.weights(tokens.dtype), self.bias)

    def weights(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix `(out, in)` that the layer stands for."""
        groups = unpacked(self.qdata).unflatten(1, (-1, GROUP)).float()
        scale, offset = self.scale.float()[..., None], self.offset.float()[..., None]
        return torch.addcmul(offset, groups, scale).flatten(1).to(dtype)


def of_torchao(layer: Any) -> Int4Linear:
    """The layer with the data of its torchao Int4Tensor, whose scales are `(in / GROUP, out)`."""
    weight = layer.weight
    bias = None if layer.bias is None else layer.bias.data
    return Int4Linear(
        weight.qdata, weight.scale.t().contiguous(), weight.zero_point.t().contiguous(), bias
    )
