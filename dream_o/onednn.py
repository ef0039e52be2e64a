"""The blocks' linear layers and the activations after them, in few passes over the tokens.

In float32 on a CPU they use oneDNN, which also computes the activation. On an AMD EPYC (no other
processor was tried) this takes a fifth less time than `torch.nn.Linear`, which uses MKL. On other
devices and in other dtypes the modules run unchanged: the compiler fuses them, and 16-bit values
would be rounded more often than in diffusers' blocks. Layers that were replaced or hooked also run
unchanged.
"""

from typing import Any

import torch
from torch.nn.functional import gelu

from dream_o.library_internals import is_hooked, onednn_linear
from dream_o.quantized_linear import EightBits, QuantizedLinear

Layer = Any
Input = torch.Tensor | EightBits
"""Tokens `(batch, tokens, channels)`, or the result of `shared_input`."""


def eager_float32(tokens: torch.Tensor) -> bool:
    """Whether operations on the tokens may be fused by hand and done in place.

    True for float32 without compilation or gradients, because it adds no rounding there.
    """
    plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return plain and tokens.dtype == torch.float32


def shared_input(layer: Layer, tokens: Input) -> Input:
    """Prepares tokens that several layers of the same kind use as input for `linear`.

    Layers that multiply in eight bits then share the rounded tokens.
    """
    return layer.as_input(tokens) if isinstance(layer, QuantizedLinear) else tokens


def _by_onednn(layer: Layer, tokens: torch.Tensor) -> bool:
    if tokens.device.type != "cpu" or not eager_float32(tokens):
        return False
    # An adapter's layer exposes the weight of its base layer, and a quantized weight has its own
    # matrix product: neither may be bypassed.
    as_made = type(layer) is torch.nn.Linear and type(layer.weight.data) is torch.Tensor
    return (
        as_made
        and not is_hooked(layer)
        and layer.weight.dtype == tokens.dtype
        and torch.backends.mkldnn.is_available()
    )


def _product(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *then: object
) -> torch.Tensor:
    # If the rows are not contiguous, oneDNN falls back to a loop that is a hundred times slower.
    return onednn_linear(tokens.contiguous(), weight.contiguous(), bias, *then)


def linear(layer: Layer, tokens: Input) -> torch.Tensor:
    """`layer(tokens)`; `tokens` is `(batch, tokens, channels)`, or from `shared_input`."""
    if isinstance(tokens, torch.Tensor) and _by_onednn(layer, tokens):
        return _product(tokens, layer.weight, layer.bias, "none", [], "")
    return layer(tokens)


def linear_gelu(layer: Layer, tokens: Input) -> torch.Tensor:
    """`layer(tokens)` and then FLUX's activation, GELU with tanh. These tensors are the widest."""
    if isinstance(tokens, torch.Tensor) and _by_onednn(layer, tokens):
        return _product(tokens, layer.weight, layer.bias, "gelu", [], "tanh")
    widened = layer(tokens)
    if torch.is_grad_enabled():
        return gelu(widened, approximate="tanh")
    return torch.ops.aten.gelu_(widened, approximate="tanh")


def linear_joined(layer: Layer, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`layer(cat([left, right], dim=-1))`; both are `(batch, tokens, channels)`."""
    if _by_onednn(layer, right):
        left_weight, right_weight = layer.weight.split([left.shape[2], right.shape[2]], dim=1)
        return _product(right, right_weight, None, "none", [], "").add_(
            _product(left, left_weight, layer.bias, "none", [], "")
        )
    return layer(torch.cat([left, right], dim=2))
