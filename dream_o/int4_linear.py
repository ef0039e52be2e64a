"""Linear layers with 4-bit weights, made of plain tensors and operations that run on any device.

Bundles store such weights as torchao 0.18's Int4Tensor, but its matrix product works on CUDA only
and needs a package that is not installed. Here the weights are converted to the tokens' dtype
before the product; the compiler fuses the conversion into one pass.
"""

from typing import Any

import torch
from torch import nn

GROUP = 32
"""The number of weights that share a scale and an offset; a weight takes 5 bits in total."""

# The scales hardly change after this many rounds of least squares: docs/weights.md.
ROUNDS = 5
LEVELS = 15  # steps from the lowest level to the highest


def in_four_bits(
    matrix: torch.Tensor, dtype: torch.dtype, rounds: int = ROUNDS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantizes a matrix to levels, scales and offsets: a value is about `level * scale + offset`.

    Each group starts with the scale and offset that span its values. Each round then computes the
    nearest levels, and the scale and offset that fit these levels best by least squares.

    Args:
        matrix: `(out, in)` float32, `in` a multiple of GROUP.
        dtype: the dtype of scales and offsets, bfloat16 or float16.
        rounds: the number of rounds; 0 keeps the first scale and offset.

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
    # Levels start at -8, and the offset is the value of level 0.
    scale = scale.to(dtype)
    offset = (start + 8 * scale.float()).to(dtype)
    nearest = (values - offset.float()) / scale.float().clamp_min(tiny)
    levels = nearest.round_().clamp_(-8, 7).to(torch.int8).flatten(1)
    return levels, scale.squeeze(-1), offset.squeeze(-1)


def packed(levels: torch.Tensor) -> torch.Tensor:
    """Packs levels `(out, in)` from -8 to 7 in pairs: `(out, in / 2)` int8, low bits first."""
    low, high = levels[:, ::2], levels[:, 1::2]
    return (low & 15) | (high << 4)


def unpacked(data: torch.Tensor) -> torch.Tensor:
    """The inverse of `packed`."""
    # The right shift of int8 keeps the sign.
    return torch.stack([(data << 4) >> 4, data >> 4], dim=-1).flatten(1)


class Int4Linear(nn.Module):
    """`tokens @ (levels * scale + offset).T + bias`.

    Attributes:
        qdata: `(out, in / 2)` int8, the levels as `packed` returns them.
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
        """Uses the tensors without copying them."""
        super().__init__()
        self.qdata = nn.Parameter(qdata, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.offset = nn.Parameter(offset, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(..., in)` to `(..., out)`, in the tokens' dtype."""
        return nn.functional.linear(tokens, self.weights(tokens.dtype), self.bias)

    def weights(self, dtype: torch.dtype) -> torch.Tensor:
        """The dequantized matrix `(out, in)`."""
        groups = unpacked(self.qdata).unflatten(1, (-1, GROUP)).float()
        scale, offset = self.scale.float()[..., None], self.offset.float()[..., None]
        return torch.addcmul(offset, groups, scale).flatten(1).to(dtype)


def of_torchao(layer: Any) -> Int4Linear:
    """Converts a layer whose weight is a torchao Int4Tensor, with scales `(in / GROUP, out)`."""
    weight = layer.weight
    bias = None if layer.bias is None else layer.bias.data
    return Int4Linear(
        weight.qdata, weight.scale.t().contiguous(), weight.zero_point.t().contiguous(), bias
    )
