"""Quantised weights in memory: torchao's tensors, whatever they were made by."""

from typing import Any

import torch

KINDS = ("int8", "fp8")
"""The precisions of a bundle that are quantised."""


def retyped(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The same quantised tensor for products in another dtype; its data are shared."""
    flat: Any = tensor
    names, attributes = flat.__tensor_flatten__()
    data = {name: getattr(tensor, name) for name in names}
    return type(flat).__tensor_unflatten__(data, attributes | {"dtype": dtype}, None, None)


def set_product_dtype(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Makes a loaded model's quantised layers work in a dtype; nothing is quantised again."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and hasattr(weight, "qdata") and weight.dtype != dtype:
            module.weight = torch.nn.Parameter(retyped(weight.data, dtype), requires_grad=False)
