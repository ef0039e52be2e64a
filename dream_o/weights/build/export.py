"""Exports a bundle's transformer as a single file for other programs."""

from collections.abc import Iterator
from pathlib import Path

import torch

from dream_o.errors import BundleError
from dream_o.weights.build.bfl_layout import Place, places
from dream_o.weights.build.planned import Progress, counted
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.disk import check_space
from dream_o.weights.format.layout import KINDS, WEIGHTED
from dream_o.weights.format.tensors import (
    Entry,
    Joined,
    Plan,
    Planned,
    read_model,
    tensor_blocks,
    write_tensors,
)

LAYOUTS = ("comfyui",)
"""The values of `--to`."""

LEFT_OUT = ("task_embedding.weight", "idx_embedding.weight")
"""DreamO's own embedding tables, which the layout has no names for."""


def export(bundle: Path, output: Path, progress: Progress | None = None) -> None:
    """Writes the fused transformer in the layout of Black Forest Labs' single files, in 16 bits.

    Args:
        bundle: the folder of a bundle that is not quantized.
        output: the file to write, which must not exist.
        progress: called with the number of bytes written so far and the total.

    Raises:
        BundleError: the bundle is quantized, or the file exists or cannot be written.
    """
    held = read_bundle(bundle)
    if held.precision in KINDS:
        raise BundleError(
            f"{bundle.name} is quantized to {held.precision}; export the bundle it was made from"
        )
    if output.exists():
        raise BundleError(f"{output.name} exists; name another file")
    entries = read_model(bundle / "transformer", WEIGHTED["transformer"])
    plan = plan_export(entries)
    count = counted({"transformer": plan}, progress)
    size = sum(planned.size for planned in plan.values())
    check_space(output.parent, size, f"for {output.name}", "nothing was written", spare=0)
    write_tensors(output, plan, progress=count)


def plan_export(entries: dict[str, Entry]) -> Plan:
    """Plans the file's tensors from those of a bundle's transformer."""
    counts = {
        kind: len({key.split(".")[1] for key in entries if key.startswith(f"{kind}.")})
        for kind in ("transformer_blocks", "single_transformer_blocks")
    }
    known = places(counts["transformer_blocks"], counts["single_transformer_blocks"])
    plan = {
        key: _planned(place, entries)
        for key, place in known.items()
        if all(name in entries for name in place.names)
    }
    left = set(entries) - {name for p in known.values() for name in p.names} - set(LEFT_OUT)
    if left:
        raise BundleError(f"{min(left)} has no name in this layout")
    return plan


def _planned(place: Place, entries: dict[str, Entry]) -> Planned:
    parts = tuple(entries[name] for name in place.names)
    if place.swapped:
        (whole,) = parts
        half = whole.shape[0] // 2
        parts = whole.rows(half, half), whole.rows(0, half)
    joined = Joined(parts)
    if joined.dtype.itemsize == 2:
        return Planned(joined.dtype, joined.shape, joined.blocks)

    def rounded() -> Iterator[memoryview]:
        for part in parts:
            yield from tensor_blocks(part.tensor().to(torch.bfloat16))

    return Planned(torch.bfloat16, joined.shape, rounded)
