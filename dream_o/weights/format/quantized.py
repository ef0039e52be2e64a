"""Quantized weights: which matrices are quantized, to what, and how they load."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dream_o import int4_linear
from dream_o.int4_linear import GROUP

T5_KINDS: Mapping[str, str] = {"int4": "int8"}
"""The precision of T5 for a precision of the transformer, where they differ.

T5 alone changes the latents of the parity model by 2.7% in int4 and by 0.2% in int8. It is needed
only once for each new prompt, so its size matters little.
"""

QUANTIZED: Mapping[str, re.Pattern[str]] = {
    "transformer": re.compile(r"(single_)?transformer_blocks\..+\.weight"),
    "text_encoder_2": re.compile(r"encoder\.block\..+(?<!relative_attention_bias)\.weight"),
}
"""The quantized models, and the names of their quantized matrices.

These are the linear layers of the blocks. The transformer's embedders, `norm_out` and `proj_out`
stay in 16 bits because every token passes through them, and they are only 0.1 GB of FLUX.1-dev's
24 GB.
"""


def is_quantized(component: str, name: str, dimensions: int) -> bool:
    """Whether `quantize` quantizes a tensor.

    Args:
        component: the model's name in the bundle, such as `transformer`.
        name: the tensor's name in the files of the bundle before it is quantized.
        dimensions: the tensor's number of dimensions.
    """
    names = QUANTIZED.get(component)
    return names is not None and dimensions == 2 and names.fullmatch(name) is not None


def kind_of(kind: str, component: str) -> str:
    """The precision of a component's matrices in a bundle of precision `kind`."""
    return T5_KINDS.get(kind, kind) if component == "text_encoder_2" else kind


def quantized_bytes(kind: str, shape: Sequence[int]) -> int:
    """The bytes of a quantized matrix with its scales.

    Args:
        kind: one of `layout.KINDS`, as `kind_of` returns it.
        shape: rows and columns.
    """
    rows, columns = shape
    if kind == "int4":
        # Two weights to a byte, and a 16-bit scale and offset for each group.
        return rows * columns // 2 + rows * (columns // GROUP) * 4
    return rows * columns + 4 * rows


def changed(tensor: torch.Tensor, **attributes: object) -> torch.Tensor:
    """A quantized tensor with other values of torchao's attributes; it shares the data."""
    flat: Any = tensor
    names, held = flat.__tensor_flatten__()
    data = {name: getattr(tensor, name) for name in names}
    return type(flat).__tensor_unflatten__(data, held | attributes, None, None)


def set_product_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Sets the dtype in which a loaded model's quantized layers compute; the weights do not change.

    int4 layers become Int4Linear, which computes in the dtype of its input.
    """
    for path, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        if type(weight).__name__ == "Int4Tensor":
            model.set_submodule(path, int4_linear.of_torchao(module))
        elif weight is not None and hasattr(weight, "qdata") and weight.dtype != dtype:
            module.weight = torch.nn.Parameter(
                changed(weight.data, dtype=dtype), requires_grad=False
            )
