"""The blocks' linear layers and the activations behind them, in few passes over the tokens.

In float32 on a CPU they use oneDNN, which also computes the activation: on an AMD EPYC (no other
processor was tried) it takes a fifth less time than `torch.nn.Linear`, which uses MKL. On other
devices and in other dtypes the modules run unchanged, because the compiler fuses them, and 16 bits
would be rounded more often than in diffusers' blocks. Layers that were replaced or hooked also run
unchanged.
"""

from typing import Any

import torch
from torch.nn.functional import gelu

from dream_o.library_internals import is_hooked, onednn_linear

Layer = Any


def eager_float32(tokens: torch.Tensor) -> bool:
    """Whether passes over the tokens may be joined by hand, and in place: nobody compiles them or
    asks for gradients, and nothing is rounded that would not be."""
    plain = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    return plain and tokens.dtype == torch.float32


def _by_onednn(layer: Layer, tokens: torch.Tensor) -> bool:
    if tokens.device.type != "cpu" or not eager_float32(tokens):
        return False
    # An adapter's layer shows its base's weight; a quantised weight multiplies in its own way.
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
    # Where rows are not one after the other oneDNN takes a loop that is a hundred times slower.
    return onednn_linear(tokens.contiguous(), weight.contiguous(), bias, *then)


def linear(layer: Layer, tokens: torch.Tensor) -> torch.Tensor:
    """`layer(tokens)`, of tokens `(batch, tokens, channels)`."""
    if _by_onednn(layer, tokens):
        return _product(tokens, layer.weight, layer.bias, "none", [], "")
    return layer(tokens)


def linear_gelu(layer: Layer, tokens: torch.Tensor) -> torch.Tensor:
    """FLUX's activation, GELU by tanh, of `layer(tokens)`; these are the widest tokens of all."""
    if _by_onednn(layer, tokens):
        return _product(tokens, layer.weight, layer.bias, "gelu", [], "tanh")
    widened = layer(tokens)
    if torch.is_grad_enabled():
        return gelu(widened, approximate="tanh")
    return torch.ops.aten.gelu_(widened, approximate="tanh")


def linear_joined(layer: Layer, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`layer` of two parts' channels side by side, `(batch, tokens, channels)` each."""
    if _by_onednn(layer, right):
        ours, theirs = layer.weight.split([left.shape[2], right.shape[2]], dim=1)
        return _product(right, theirs, None, "none", [], "").add_(
            _product(left, ours, layer.bias, "none", [], "")
        )
    return layer(torch.cat([left, right], dim=2))
