"""Moves a pipeline's weights to the device, except those that are streamed to it."""

from typing import Any

import torch

from dream_o.runtime.memory_needs import streamed_blocks
from dream_o.runtime.plans import Placement
from dream_o.runtime.streaming import Streamed, plain_tensors, weights_of
from dream_o.runtime.vae_strips import use_strips


def apply_placement(pipeline: Any, placement: Placement, device: torch.device) -> Streamed | None:
    """Moves a pipeline's weights to the device, except those that will be streamed to it.

    Returns:
        The object that streams them, or None if everything stays on the device.
    """
    if placement.strips:
        use_strips(pipeline.vae)
    if placement.plan == "none":
        pipeline.to(device)
        return None
    transformer = pipeline.transformer
    units = list(pipeline.text_encoder_2.encoder.block)
    if placement.plan != "text":
        units += transformer.modulation_layers()
    loop_start = len(units)
    doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks
    chosen = streamed_blocks(len(doubles), len(singles), placement.streamed_blocks)
    units += [doubles[index] for index in chosen[0]] + [singles[index] for index in chosen[1]]
    streamed = Streamed(units, loop_start, device)
    inside = {id(each) for unit in units for each in unit.modules()}
    for model in pipeline.components.values():
        if isinstance(model, torch.nn.Module):
            _move_others(model, inside, device)
    return streamed


def _move_others(model: torch.nn.Module, inside: set[int], device: torch.device) -> None:
    # Module.to would also move the streamed weights.
    moved: dict[int, torch.Tensor] = {}  # a tied parameter is moved once and stays tied
    owners = [each for each in model.modules() if id(each) not in inside]
    for owner, name, tensor in list(weights_of(owners)):
        if id(tensor) not in moved:
            there = plain_tensors(tensor, lambda each: each.detach().to(device))
            if isinstance(tensor, torch.nn.Parameter):
                there = torch.nn.Parameter(there, requires_grad=False)
            moved[id(tensor)] = there
        setattr(owner, name, moved[id(tensor)])
