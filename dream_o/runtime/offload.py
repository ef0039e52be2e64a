"""Which part of a bundle is on the GPU when: the least invasive plan that fits."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dream_o.errors import SettingError, UserError
from dream_o.runtime.memory_needs import PLANS, needs
from dream_o.weights.format.bundle import Bundle

logger = logging.getLogger(__name__)

FP8_CAPABILITY = (8, 9)
"""The compute capability of the first GPUs with float8 units (NVIDIA Ada)."""

MEANINGS: Mapping[str, str] = {
    "none": "everything stays on the GPU",
    "text": "T5 comes to the GPU block by block while a prompt is encoded",
    "model": "one model at a time is on the GPU",
    "group": "T5 and the transformer come to the GPU block by block",
}


MOVES_TRANSFORMER = ("model", "group")
"""The plans under which the transformer is not on the GPU all the time."""


def has_float8(device: torch.device) -> bool:
    """Whether the device multiplies in float8."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def check_device(bundle: Bundle, device: torch.device) -> None:
    """Raises UserError when the device cannot run the bundle's precision."""
    if bundle.precision != "fp8" or has_float8(device):
        return
    if device.type != "cuda":
        raise UserError(
            f"an fp8 bundle needs a GPU with float8 units, and the device is {device}; use an int8 "
            "bundle, or one that is not quantised"
        )
    major, minor = torch.cuda.get_device_capability(device)
    raise UserError(
        "an fp8 bundle needs a GPU of compute capability 8.9 or newer, and this one has "
        f"{major}.{minor}; use an int8 bundle"
    )


def choose_plan(setting: str, needed: Mapping[str, Mapping[str, int]], free: int) -> str:
    """The least invasive plan that fits, or the one that the setting forces.

    Args:
        setting: DREAM_O_OFFLOAD, `auto` or a key of PLANS.
        needed: GPU memory in bytes by precision and plan: the bundle's own precision first, then
            others that it could be had in.
        free: bytes of GPU memory.

    Raises UserError with the numbers, and with a precision that would fit, when nothing does.
    """
    own, *others = needed
    if setting != "auto":
        if setting not in PLANS:
            raise SettingError(
                "DREAM_O_OFFLOAD", setting, f"is not a plan; use auto, {', '.join(PLANS)}"
            )
        return setting
    for plan in PLANS:
        if needed[own][plan] <= free:
            return plan
    smallest = min(needed[own].values())
    advice = "use a GPU with more memory"
    for other in others:
        fitting = [plan for plan in PLANS if needed[other][plan] <= free]
        if fitting:
            advice = (
                f"a bundle in {other} would fit with DREAM_O_OFFLOAD={fitting[0]} "
                f"(dream-o weights quantize BUNDLE --to {other} --output BUNDLE2)"
            )
            break
    raise UserError(
        f"not enough GPU memory: {_gb(free)} free, {_gb(needed[own]['none'])} needed, "
        f"{_gb(smallest)} with everything offloaded; {advice}"
    )


def plan_for(setting: str, device: torch.device, bundle: Bundle, dtype: torch.dtype) -> str:
    """The plan for a bundle that is yet to be loaded; the log says which, and why.

    Args:
        setting: DREAM_O_OFFLOAD.
        device: offloading is for CUDA devices; on others everything is simply there.
        bundle: for what it needs.
        dtype: that it will be loaded in.

    Raises as `choose_plan` does.
    """
    if device.type != "cuda":
        if setting not in ("auto", "none"):
            raise SettingError(
                "DREAM_O_OFFLOAD",
                setting,
                f"needs a CUDA device, and this is {device}; use auto or none",
            )
        return "none"
    free, _ = torch.cuda.mem_get_info(device)
    needed = needs(bundle, dtype)
    plan = choose_plan(setting, needed, free)
    own = next(iter(needed))
    logger.info(
        "offloading: %s (%s); %s needed, %s of GPU memory free",
        plan,
        MEANINGS[plan],
        _gb(needed[own][plan]),
        _gb(free),
    )
    return plan


def apply_plan(pipeline: Any, plan: str, device: torch.device) -> None:
    """Moves a pipeline's models as a plan says."""
    if plan == "none":
        pipeline.to(device)
    elif plan == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        streamed = [pipeline.text_encoder_2.encoder.block]
        if plan == "group":
            streamed += [
                pipeline.transformer.transformer_blocks,
                pipeline.transformer.single_transformer_blocks,
            ]
        for blocks in streamed:
            _stream(blocks, device)
        inside = {id(each) for blocks in streamed for each in blocks.modules()}
        for model in (
            pipeline.text_encoder,
            pipeline.text_encoder_2,
            pipeline.transformer,
            pipeline.vae,
        ):
            _move_others(model, inside, device)


def _stream(blocks: Iterable[torch.nn.Module], device: torch.device) -> None:
    from diffusers.hooks import apply_group_offloading

    for block in blocks:
        apply_group_offloading(
            block,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
        )


def _move_others(model: torch.nn.Module, inside: set[int], device: torch.device) -> None:
    # Module.to would take the streamed blocks along.
    moved: dict[int, torch.nn.Parameter] = {}  # a tied parameter is moved once and stays tied
    for module in model.modules():
        if id(module) in inside:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in moved:
                there = torch.nn.Parameter(parameter.data.to(device), requires_grad=False)
                moved[id(parameter)] = there
            setattr(module, name, moved[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
