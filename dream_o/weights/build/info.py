"""Describes a bundle: its models, their sizes and the memory that they need."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from dream_o.runtime.cards import ASSUMED_COPIES, cards
from dream_o.runtime.memory_needs import Sizes, by_plan, needs
from dream_o.weights.format.bundle import Bundle, read_bundle, torch_dtype
from dream_o.weights.format.layout import WEIGHTED
from dream_o.weights.format.tensors import CODES, read_model


@dataclass(frozen=True)
class Model:
    """One model of a bundle: its number of parameters, their bytes and their dtypes."""

    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """A bundle, its models by component, and its memory needs by precision."""

    bundle: Bundle
    models: dict[str, Model]
    needed: dict[str, Sizes]


def describe(folder: Path) -> Description:
    """Describes a bundle from its files' headers; raises BundleError if it is not a bundle."""
    bundle = read_bundle(folder)
    models = {}
    for component, stem in WEIGHTED.items():
        entries = read_model(folder / component, stem).values()
        models[component] = Model(
            parameters=sum(math.prod(entry.shape) for entry in entries),
            bytes=sum(entry.end - entry.start for entry in entries),
            dtypes=tuple(sorted({CODES[entry.dtype] for entry in entries})),
        )
    dtype = torch_dtype(bundle.dtype)
    sixteen = dtype if dtype.itemsize == 2 else torch.bfloat16  # the dtype on a GPU
    return Description(bundle, models, needs(bundle, sixteen))


def table(description: Description) -> str:
    """The description as text for the command line."""
    bundle, models = description.bundle, description.models
    lines = [
        f"model      DreamO {bundle.model_version}, {'with' if bundle.turbo else 'without'} turbo",
        f"precision  {bundle.precision}"
        + (f" over {bundle.dtype}" if bundle.dtype != bundle.precision else ""),
        *(f"LoRA       {each.name}, scale {each.scale:g}" for each in bundle.loras),
        f"made by    dream_o {bundle.tool_version} from {len(bundle.sources)} files",
        "",
        f"{'component':<16}{'parameters':>16}{'bytes':>16}  dtypes",
    ]
    for name, model in models.items():
        lines.append(
            f"{name:<16}{model.parameters:>16,}{model.bytes:>16,}  {', '.join(model.dtypes)}"
        )
    total = sum(model.bytes for model in models.values())
    parameters = sum(model.parameters for model in models.values())
    lines.append(f"{'all':<16}{parameters:>16,}{total:>16,}")
    lines += ["", "GPU memory, estimated for 1024 x 1024 with two references, by DREAM_O_OFFLOAD:"]
    lines += [
        f"{kind:<16}"
        + "  ".join(f"{plan} {size / 1e9:.1f} GB" for plan, size in by_plan(sizes).items())
        for kind, sizes in description.needed.items()
    ]
    lines += ["", f"On cards of common sizes, with DREAM_O_OFFLOAD=auto ({ASSUMED_COPIES}):"]
    lines += [
        f"{'card':<8}{'precision':<12}{'plan':<22}{'resident':>10}{'a step':>10}{'copying':>10}"
    ]
    lines += [
        f"{f'{each.gigabytes} GB':<8}{each.precision:<12}{each.plan:<22}"
        + (
            f"{each.resident / 1e9:>7.1f} GB{each.moved / 1e9:>7.1f} GB{each.copying:>8.2f} s"
            if each.placement
            else ""
        )
        for each in cards(description.needed)
    ]
    return "\n".join(lines)
