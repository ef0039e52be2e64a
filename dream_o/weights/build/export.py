"""A bundle's transformer as one file for other programs."""

from collections.abc import Iterator
from pathlib import Path

import torch

from dream_o.errors import BundleError
from dream_o.weights.build.bfl_layout import Place, places
from dream_o.weights.build.planned import Progress, counted
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.disk import check_space
from dream_o.weights.format.layout import WEIGHTED
from dream_o.weights.format.quantized import KINDS
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
"""What `--to` takes."""

LEFT_OUT = ("task_embedding.weight", "idx_embedding.weight")
"""DreamO's own tables, which the layout has no place for."""


def export(bundle: Path, output: Path, progress: Progress | None = None) -> None:
    """Writes the fused transformer in the layout of Black Forest Labs' files, in 16 bits.

    Args:
        bundle: a bundle that is not quantised.
        output: the file; it must not be there.
        progress: called with the bytes written so far and in all.

    Raises:
        BundleError: the bundle is quantised, or the file is there or cannot be written.
    """
    held = read_bundle(bundle)
    if held.precision in KINDS:
        raise BundleError(
            f"{bundle.name} is in {held.precision}; export the bundle that it was made from"
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
    """The tensors of the file, from the tensors of a bundle's transformer."""
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
        raise BundleError(f"{min(left)} has no place in this layout")
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
