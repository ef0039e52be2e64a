"""Linear layers with 8-bit weights, made of plain tensors that the compiler can optimize.

torchao's tensor subclasses cost the CPU about half a millisecond a compiled block, more than a fast
GPU needs to compute it, and quantize a block's tokens again for each of its layers. The results
here are the same.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from dream_o.library_internals import float8_product, int8_product

# The largest value of each eight-bit dtype. int8 is used symmetrically, without -128.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
# A token that is all zeros has this scale; float32's own smallest would make others infinite.
SMALLEST_SCALE = 1e-12


class EightBits(NamedTuple):
    """Tokens in eight bits, with the values `data * scale`.

    Attributes:
        data: `(batch, tokens, channels)`, int8 or float8_e4m3fn.
        scale: `(batch, tokens, 1)` float32.
        dtype: the dtype of the products.
    """

    data: torch.Tensor
    scale: torch.Tensor
    dtype: torch.dtype


def in_eight_bits(tokens: torch.Tensor, dtype: torch.dtype) -> EightBits:
    """Rounds tokens `(batch, tokens, channels)` to a dtype of LARGEST, each with its own scale."""
    values = tokens.float()
    largest = LARGEST[dtype]
    scale = (values.abs().amax(dim=-1, keepdim=True) / largest).clamp_min(SMALLEST_SCALE)
    levels = (values / scale).clamp(-largest, largest)
    if dtype == torch.int8:
        levels = levels.round()
    return EightBits(levels.to(dtype), scale, tokens.dtype)


class QuantizedLinear(nn.Module):
    """`tokens @ (qdata * scale).T + bias`.

    Attributes:
        eight_bit_products: whether tokens are rounded to eight bits too, so that the device's
            eight-bit units multiply. Otherwise the weights are converted to the tokens' dtype.
    """

    def __init__(self, qdata: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Uses the tensors without copying them.

        Args:
            qdata: `(out, in)`, int8 or float8_e4m3fn.
            scale: `(out, 1)` float32.
            bias: `(out,)`.
        """
        super().__init__()
        self.qdata = nn.Parameter(qdata, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.eight_bit_products = False

    def forward(self, tokens: torch.Tensor | EightBits) -> torch.Tensor:
        """`(batch, tokens, in)` to `(batch, tokens, out)`."""
        given = self.as_input(tokens)
        if isinstance(given, EightBits):
            return self._multiply(given)
        # Multiplied before it is rounded: torch 2.13's compiler takes `tokens @ qdata.T * scale`
        # in bfloat16 for its weight-only operator, which on CUDA is a loop in scalar float32.
        weight = (self.qdata.to(torch.float32) * self.scale).to(given.dtype)
        return nn.functional.linear(given, weight, self.bias)

    def as_input(self, tokens: torch.Tensor | EightBits) -> torch.Tensor | EightBits:
        """The input of the product; several layers of the same kind can share it."""
        if isinstance(tokens, EightBits) or not self.eight_bit_products:
            return tokens
        return in_eight_bits(tokens, self.qdata.dtype)

    def _multiply(self, tokens: EightBits) -> torch.Tensor:
        rows, scales = tokens.data.flatten(0, -2), tokens.scale.flatten(0, -2)
        columns, column_scales = self.qdata.t(), self.scale.t()
        if self.qdata.dtype == torch.int8:
            product = (int8_product(rows, columns) * scales * column_scales).to(tokens.dtype)
            product = product if self.bias is None else product + self.bias
        else:
            product = float8_product(rows, columns, scales, column_scales, self.bias, tokens.dtype)
        return product.unflatten(0, tokens.data.shape[:-1])


def of_torchao(layer: nn.Linear) -> QuantizedLinear | None:
    """Converts a layer with a torchao weight; None if the weight is not quantized by rows."""
    weight: Any = layer.weight.data
    if not hasattr(weight, "qdata") or weight.qdata.dtype not in LARGEST:
        return None
    qdata, scale = weight.qdata, weight.scale
    if scale.shape != (len(qdata), 1):
        return None
    bias = None if layer.bias is None else layer.bias.data
    return QuantizedLinear(qdata, scale, bias)
