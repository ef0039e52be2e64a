"""Chooses which weights stay on the GPU and which, as few as possible, are streamed to it."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from dream_o.errors import SettingError, UserError
from dream_o.runtime.copies import SLOTS, transfer_rate
from dream_o.runtime.host_memory import available_memory
from dream_o.runtime.memory_needs import Sizes, needs
from dream_o.runtime.plans import PLANS, Placement
from dream_o.weights.format.bundle import Bundle

logger = logging.getLogger(__name__)

QUANTIZE = "dream-o weights quantize BUNDLE --to {kind} --output BUNDLE2"

FP8_CAPABILITY = (8, 9)
"""The compute capability of the first GPUs with float8 units (NVIDIA Ada)."""

MOVES_TRANSFORMER = ("blocks",)
"""The plans that stream some of the transformer's blocks."""


def has_float8(device: torch.device) -> bool:
    """Whether the device has float8 units."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= FP8_CAPABILITY


def check_device(bundle: Bundle, device: torch.device) -> None:
    """Raises UserError if the device cannot run the bundle's precision."""
    if bundle.precision != "fp8" or has_float8(device):
        return
    if device.type != "cuda":
        raise UserError(
            f"an fp8 bundle needs a GPU with float8 units, and the device is {device}; use an int8 "
            "bundle, or one that is not quantized"
        )
    major, minor = torch.cuda.get_device_capability(device)
    raise UserError(
        "an fp8 bundle needs a GPU of compute capability 8.9 or newer, and this one has "
        f"{major}.{minor}; use an int8 bundle"
    )


def choose_placement(
    setting: str, resident: int | None, needed: Mapping[str, Sizes], free: int, host: int
) -> Placement:
    """The placement that fits and streams least, or the one that the settings require.

    Args:
        setting: DREAM_O_OFFLOAD, `auto` or one of PLANS.
        resident: DREAM_O_RESIDENT_BLOCKS, the blocks that stay on the GPU under the plan `blocks`;
            None for as many as fit.
        needed: sizes by precision: the bundle's own first, then those that it can be quantized to.
        free: free bytes of GPU memory.
        host: available bytes of host memory.

    Raises:
        UserError: nothing fits; the message says how much is needed and which precision would fit.
    """
    own, *others = needed
    sizes = needed[own]
    candidates = _candidates(sizes, PLANS if setting == "auto" else [setting], resident)
    fitting = [each for each in candidates if sizes.needed(each) <= free]
    if setting != "auto":
        # The user's choice is used even if it does not fit: the estimate can be wrong.
        return (fitting or candidates[-1:])[0]
    if not fitting:
        raise UserError(
            f"not enough GPU memory: {_gb(free)} free, {_gb(sizes.needed(candidates[0]))} needed, "
            f"{_gb(sizes.needed(candidates[-1]))} with everything streamed; "
            + _advice(needed, others, free, host)
        )
    chosen = fitting[0]
    if sizes.host(chosen) > host:
        raise UserError(
            f"not enough memory: with {_gb(free)} of GPU memory free, "
            f"{_gb(sizes.host(chosen))} of weights would be streamed from host memory, of which "
            f"{_gb(host)} are available; " + _advice(needed, others, free, host)
        )
    return chosen


def _candidates(sizes: Sizes, plans: Iterable[str], resident: int | None) -> list[Placement]:
    """The placements of some plans, fastest first; then the same with the VAE in strips."""
    whole = [
        each
        for plan in plans
        for each in (
            [_with_resident(sizes, resident)]
            if plan == "blocks" and resident is not None
            else sizes.placements(plan)
        )
    ]
    # Strips save little memory compared with the weights, so they are the last resort.
    return whole + [replace(each, strips=True) for each in whole]


def _with_resident(sizes: Sizes, resident: int) -> Placement:
    most = sizes.placements("blocks")[-1].streamed_blocks
    wanted = len(sizes.doubles) + len(sizes.singles) - resident
    # Rounded up to a multiple of SLOTS, as in all placements.
    return Placement("blocks", min(max(-(-wanted // SLOTS) * SLOTS, 0), most))


def _advice(needed: Mapping[str, Sizes], others: list[str], free: int, host: int) -> str:
    for other in others:
        for each in _candidates(needed[other], PLANS, None):
            if needed[other].needed(each) <= free and needed[other].host(each) <= host:
                return (
                    f"a bundle in {other} would fit with DREAM_O_OFFLOAD={each.plan} "
                    f"({QUANTIZE.format(kind=other)})"
                )
    return "use a machine with more memory"


def placement_for(
    setting: str,
    resident: int | None,
    device: torch.device,
    bundle: Bundle,
    dtype: torch.dtype,
) -> Placement:
    """Chooses the placement for a bundle before it is loaded, and logs it with its costs.

    Args:
        setting: DREAM_O_OFFLOAD.
        resident: DREAM_O_RESIDENT_BLOCKS.
        device: the device; weights are streamed only to CUDA devices.
        bundle: the bundle.
        dtype: the dtype in which it will be loaded.

    Raises:
        SettingError: the setting requires streaming, and the device is not CUDA.
        UserError: as for `choose_placement`.
    """
    if device.type != "cuda":
        if setting not in ("auto", "none"):
            raise SettingError(
                "DREAM_O_OFFLOAD",
                setting,
                f"needs a CUDA device, and this is {device}; use auto or none",
            )
        return Placement("none")
    free, _ = torch.cuda.mem_get_info(device)
    host = available_memory()
    needed = needs(bundle, dtype)
    chosen = choose_placement(setting, resident, needed, free, host)
    rate = math.inf if chosen.plan == "none" else transfer_rate(device)
    logger.info("offloading: %s", explanation(chosen, needed, free, host, rate))
    return chosen


def explanation(
    chosen: Placement, needed: Mapping[str, Sizes], free: int, host: int, rate: float
) -> str:
    """One line of text: the placement, its costs, and a bundle that would avoid them.

    Args:
        chosen: the placement, for the first precision in `needed`.
        needed: as for `choose_placement`.
        free, host: free bytes of GPU memory and available bytes of host memory.
        rate: bytes a second from the host to the GPU.
    """
    own, *others = needed
    sizes = needed[own]
    line = (
        f"{chosen.plan} ({PLANS[chosen.plan]}); {_gb(sizes.needed(chosen))} of GPU memory needed, "
        f"{_gb(free)} free"
    )
    if chosen.strips:
        line += "; the VAE works in strips"
    if chosen.plan == "none":
        return line
    once, each_step = sum(sizes.once(chosen.plan)), sum(sizes.each_step(chosen))
    line += f"; {_gb(once)} copied once a request ({once / rate:.1f} s at {_gb(int(rate))}/s)"
    if each_step:
        blocks = len(sizes.doubles) + len(sizes.singles)
        line += (
            f"; {_gb(each_step)} in every step, for {chosen.streamed_blocks} of {blocks} blocks "
            f"({each_step / rate:.2f} s, hidden if computing takes longer)"
        )
    line += f"; {_gb(sizes.host(chosen))} of the host's {_gb(host)} are used"
    for other in others:
        if needed[other].needed(Placement("none")) <= free:
            return (
                f"{line}; a bundle in {other} would stay on the GPU ({QUANTIZE.format(kind=other)})"
            )
    return line


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
