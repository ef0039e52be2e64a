"""Prepares the blocks' linear layers for compiled code while they are still on the CPU."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from dream_o.blocks import IMAGE_STREAM, TEXT_STREAM
from dream_o.quantized_linear import QuantizedLinear, of_torchao
from dream_o.transformer import DreamOTransformer2DModel

INT8_CAPABILITY = (7, 5)
"""The compute capability of the first GPUs with int8 tensor cores (NVIDIA Turing)."""


def has_int8(device: torch.device) -> bool:
    """Whether the device has int8 tensor cores."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= INT8_CAPABILITY


def use_plain_weights(transformer: DreamOTransformer2DModel) -> int:
    """Replaces the blocks' quantized layers with QuantizedLinear; returns their number.

    The modulation layers are not replaced: they process only one token a step.
    """
    found = [
        (path, quantized)
        for path, layer in _block_layers(transformer)
        if isinstance(layer, nn.Linear) and (quantized := of_torchao(layer)) is not None
    ]
    for path, quantized in found:
        transformer.set_submodule(path, quantized)
    return len(found)


def use_eight_bit_products(transformer: DreamOTransformer2DModel, device: torch.device) -> int:
    """Makes the blocks' quantized layers multiply in eight bits; returns how many do.

    Each token is rounded with its own scale, as each row of the weights was. int8 layers change
    only if the device has int8 units. Layers that compute in float32 do not change, because few
    GPUs have float8 products with float32 results.
    """
    count = 0
    for _, layer in _block_layers(transformer):
        if not isinstance(layer, QuantizedLinear):
            continue
        if layer.bias is None or layer.bias.dtype == torch.float32:
            continue
        if layer.qdata.dtype == torch.int8 and not has_int8(device):
            continue
        layer.eight_bit_products = True
        count += 1
    return count


def _block_layers(transformer: DreamOTransformer2DModel) -> Iterator[tuple[str, nn.Module]]:
    for path, layer in transformer.named_modules():
        if "transformer_blocks." in path and "norm" not in path:
            yield path, layer


def fuse_projections(transformer: DreamOTransformer2DModel, device: torch.device) -> None:
    """Joins the three projections of each attention to one matrix, and moves it to the device.

    The three stay as views of the joined matrix, so no memory is used twice. They are joined on the
    CPU, one attention at a time: joined on the device, the freed matrices of all blocks would leave
    gigabytes of its memory fragmented.
    """
    for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        for block in blocks:
            attention: Any = block.attn
            joined = [
                (names.fused, [getattr(attention, name) for name in names.separate])
                for names in (IMAGE_STREAM, TEXT_STREAM)
                if getattr(attention, names.separate[0], None) is not None
            ]
            if not all(_is_plain(part) for _, parts in joined for part in parts):
                continue
            for fused, parts in joined:
                whole = _joined(parts)
                _place(whole, device)
                _share(whole, parts)
                setattr(attention, fused, whole)
            attention.fused_projections = True
            _place(attention, device)


def _is_plain(layer: nn.Module) -> bool:
    """Whether the layer's tensors can be split and joined by rows; torchao's subclasses cannot."""
    return not any(hasattr(each.data, "__tensor_flatten__") for each in layer.parameters())


def _joined(parts: Sequence[nn.Module]) -> nn.Module:
    """A layer whose output is the concatenation of the parts' outputs."""
    whole = copy.deepcopy(parts[0])
    for name, _ in parts[0].named_parameters():
        rows = torch.cat([getattr(part, name).data for part in parts])
        setattr(whole, name, nn.Parameter(rows, requires_grad=False))
    return whole


def _place(module: nn.Module, device: torch.device) -> None:
    # Module.to would copy the views away from their matrix. Tensors already on the device stay.
    for each in module.modules():
        for name, parameter in list(each.named_parameters(recurse=False)):
            there = parameter.data.to(device)
            setattr(each, name, nn.Parameter(there, requires_grad=False))


def _share(whole: nn.Module, parts: Sequence[nn.Module]) -> None:
    for name, rows in whole.named_parameters():
        for part, piece in zip(parts, rows.data.chunk(len(parts)), strict=True):
            setattr(part, name, nn.Parameter(piece, requires_grad=False))
