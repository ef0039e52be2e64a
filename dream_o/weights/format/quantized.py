"""Quantised weights in memory: torchao's tensors, whatever they were made by."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dream_o import int4_linear
from dream_o.int4_linear import GROUP

KINDS = ("int8", "fp8", "int4")
"""The precisions of a bundle that are quantised."""

T5_KINDS: Mapping[str, str] = {"int4": "int8"}
"""What T5 is quantised to in a bundle whose transformer is in a precision, where that differs.

In four bits T5 alone moves the latents of the parity model by 2.7%, in eight by 0.2%. It comes to
the GPU once for a prompt, so its size matters little.
"""

QUANTIZED: Mapping[str, re.Pattern[str]] = {
    "transformer": re.compile(r"(single_)?transformer_blocks\..+\.weight"),
    "text_encoder_2": re.compile(r"encoder\.block\..+(?<!relative_attention_bias)\.weight"),
}
"""The models that are quantised, and the names of the matrices in them that are.

Only the blocks' linear layers are. The transformer's embedders, `norm_out` and `proj_out` stay in
16 bits: every token passes through each of them, and they are 0.1 of FLUX.1-dev's 24 GB.
"""


def is_quantized(component: str, name: str, dimensions: int) -> bool:
    """Whether `quantize` stores a tensor of a component quantised.

    Args:
        component: the model's name in the bundle, such as `transformer`.
        name: of the tensor, as the unquantised model's files have it.
        dimensions: 2 for a matrix.
    """
    names = QUANTIZED.get(component)
    return names is not None and dimensions == 2 and names.fullmatch(name) is not None


def kind_of(kind: str, component: str) -> str:
    """The precision of a component's matrices in a bundle of a precision of KINDS."""
    return T5_KINDS.get(kind, kind) if component == "text_encoder_2" else kind


def quantized_bytes(kind: str, shape: Sequence[int]) -> int:
    """The bytes that a matrix takes in a precision, its scales included.

    Args:
        kind: one of KINDS, as `kind_of` gives it.
        shape: rows and columns.
    """
    rows, columns = shape
    if kind == "int4":
        # Two to a byte, and a scale and an offset in 16 bits for each group.
        return rows * columns // 2 + rows * (columns // GROUP) * 4
    return rows * columns + 4 * rows


def changed(tensor: torch.Tensor, **attributes: object) -> torch.Tensor:
    """The same quantised tensor with other attributes of torchao's; its data are shared."""
    flat: Any = tensor
    names, held = flat.__tensor_flatten__()
    data = {name: getattr(tensor, name) for name in names}
    return type(flat).__tensor_unflatten__(data, held | attributes, None, None)


def set_product_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Makes a loaded model's quantised layers work in a dtype; nothing is quantised again.

    Layers in four bits become Int4Linear, which works in any.
    """
    for path, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        if type(weight).__name__ == "Int4Tensor":
            model.set_submodule(path, int4_linear.of_torchao(module))
        elif weight is not None and hasattr(weight, "qdata") and weight.dtype != dtype:
            module.weight = torch.nn.Parameter(
                changed(weight.data, dtype=dtype), requires_grad=False
            )
