"""Estimates the bytes of GPU memory that a bundle needs under an offloading plan.

The weights are counted tensor by tensor from the headers of the bundle's files. The working memory
of each phase of a request is estimated; phases run one after another, so only the largest counts.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dream_o.runtime.copies import SLOTS
from dream_o.runtime.plans import PLANS, Placement
from dream_o.weights.format.bundle import Bundle
from dream_o.weights.format.layout import KINDS, WEIGHTED
from dream_o.weights.format.quantized import is_quantized, kind_of, quantized_bytes
from dream_o.weights.format.tensors import Entry, read_model

# The largest request: 1024 x 1024 with two 512 x 512 references, and 512 text tokens.
TOKENS = 1024 * 1024 // 256 + 2 * (512 * 512 // 256) + 512
PIXELS = 1024 * 1024

# A single-stream block holds this many tensors of (tokens, width) at once: residual, normed, q, k,
# v, attention's output, the MLP before and after its activation (four each), their concatenation
# with attention (five), the projection.
ROWS_AT_ONCE = 20
# The VAE holds this many full-size feature maps at once, with its second stage's channels when
# decoding and its first stage's when encoding. Without strips these are a block's input and its
# normed and activated maps; with strips, little more than its input and output
# (`tests/test_vae_strips.py` counts them at full size).
DECODED_MAPS, ENCODED_MAPS = 3.01, 5.01
DECODED_STRIPS, ENCODED_STRIPS = 2.1, 2.3
CONTEXT = 800_000_000  # bytes: CUDA's context, cuBLAS's and cuDNN's workspaces

# The streamed unit that a tensor belongs to, by its name.
UNITS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "text_encoder_2": {"t5": re.compile(r"encoder\.block\.\d+\.")},
    "transformer": {
        "modulation": re.compile(
            r"(single_)?transformer_blocks\.\d+\.norm(1|1_context)?\.linear\.|norm_out\.linear\."
        ),
        "doubles": re.compile(r"transformer_blocks\.\d+\."),
        "singles": re.compile(r"single_transformer_blocks\.\d+\."),
    },
}


@dataclass(frozen=True)
class Sizes:
    """Bytes of GPU memory.

    Attributes:
        fixed: what always stays on the GPU: CLIP, the VAE, embedders and CUDA's context.
        t5, modulation, doubles, singles: the bytes of each block or layer that can be streamed.
        working, working_in_strips: the bytes beside all weights, by phase of a request; the latter
            if the VAE works in strips.
    """

    fixed: int
    t5: tuple[int, ...]
    modulation: tuple[int, ...]
    doubles: tuple[int, ...]
    singles: tuple[int, ...]
    working: Mapping[str, int]
    working_in_strips: Mapping[str, int]

    def once(self, plan: str) -> tuple[int, ...]:
        """The sizes of the units that are copied once for a prompt or request."""
        streamed = {"none": (), "text": self.t5}
        return streamed.get(plan, self.t5 + self.modulation)

    def each_step(self, placement: Placement) -> tuple[int, ...]:
        """The sizes of the units that are copied to the GPU in every step."""
        doubles, singles = streamed_blocks(
            len(self.doubles), len(self.singles), placement.streamed_blocks
        )
        return tuple(
            [self.doubles[index] for index in doubles] + [self.singles[index] for index in singles]
        )

    def host(self, placement: Placement) -> int:
        """The bytes of host memory for the master copies."""
        return sum(self.once(placement.plan)) + sum(self.each_step(placement))

    def needed(self, placement: Placement) -> int:
        """The bytes of GPU memory: resident weights, the slots and the largest phase."""
        streamed = self.once(placement.plan) + self.each_step(placement)
        weights = sum(map(sum, (self.t5, self.modulation, self.doubles, self.singles)))
        slots = SLOTS * max(streamed, default=0)
        working = self.working_in_strips if placement.strips else self.working
        return self.fixed + weights - sum(streamed) + slots + max(working.values())

    def placements(self, plan: str) -> list[Placement]:
        """A plan's possible placements, from the least streaming to the most."""
        if plan != "blocks":
            return [Placement(plan)]
        # A multiple of SLOTS, so that the last and the first block are in different slots.
        most = (len(self.doubles) + len(self.singles)) // SLOTS * SLOTS
        return [Placement(plan, count) for count in range(SLOTS, most + 1, SLOTS)]


def streamed_blocks(doubles: int, singles: int, count: int) -> tuple[list[int], list[int]]:
    """The indices of the double-stream and single-stream blocks to stream, `count` in all.

    Blocks of both kinds take about the same time, but a single-stream block has half the bytes, so
    single-stream blocks are chosen first. They are spread evenly, so that other blocks compute
    while each one is copied.
    """
    of_singles = min(count, singles)
    return _spread(doubles, count - of_singles), _spread(singles, of_singles)


def _spread(total: int, count: int) -> list[int]:
    return [
        index for index in range(total) if (index + 1) * count // total > index * count // total
    ]


def needs(bundle: Bundle, dtype: torch.dtype) -> dict[str, Sizes]:
    """GPU memory by precision: the bundle's own first, then those that it could be quantized to.

    Args:
        bundle: as `read_bundle` returns it.
        dtype: the dtype of activations, and of weights that are not quantized.
    """
    folder = bundle.folder
    models = {name: read_model(folder / name, stem) for name, stem in WEIGHTED.items()}
    working = _working(folder, dtype)
    quantized = bundle.precision in KINDS
    own = bundle.precision if quantized else str(dtype).removeprefix("torch.")
    held = {
        component: {name: _held(name, entry, dtype) for name, entry in entries.items()}
        for component, entries in models.items()
    }
    found = {own: sizes_of(held, working)}
    for kind in () if quantized else KINDS:
        shapes = {
            component: {name: entry.shape for name, entry in entries.items()}
            for component, entries in models.items()
        }
        found[kind] = sizes_of(bytes_as(kind, shapes, dtype), working)
    return found


def by_plan(sizes: Sizes) -> dict[str, int]:
    """The fewest bytes of GPU memory with which each plan works."""
    return {plan: min(map(sizes.needed, sizes.placements(plan))) for plan in PLANS}


def bytes_as(
    kind: str, shapes: Mapping[str, Mapping[str, Sequence[int]]], dtype: torch.dtype
) -> dict[str, dict[str, int]]:
    """The bytes of each tensor in a precision, by component and name.

    Args:
        kind: one of KINDS, or the name of a torch dtype if nothing is quantized.
        shapes: the shapes of the tensors before quantization.
        dtype: the dtype of tensors that are not quantized.
    """
    return {
        component: {
            name: quantized_bytes(kind_of(kind, component), shape)
            if kind in KINDS and is_quantized(component, name, len(shape))
            else math.prod(shape) * dtype.itemsize
            for name, shape in tensors.items()
        }
        for component, tensors in shapes.items()
    }


def sizes_of(
    held: Mapping[str, Mapping[str, int]], working: tuple[Mapping[str, int], Mapping[str, int]]
) -> Sizes:
    """Adds up the bytes of the tensors of each unit.

    Args:
        held: the bytes of each tensor, by component and name.
        working: as `working_bytes` returns it.
    """
    units: dict[str, dict[str, int]] = {kind: {} for each in UNITS.values() for kind in each}
    fixed = CONTEXT
    for component, tensors in held.items():
        for name, size in tensors.items():
            for kind, pattern in UNITS.get(component, {}).items():
                match = pattern.match(name)
                if match:
                    units[kind][match[0]] = units[kind].get(match[0], 0) + size
                    break
            else:
                fixed += size
    return Sizes(
        fixed=fixed,
        working=working[0],
        working_in_strips=working[1],
        **{kind: tuple(sizes.values()) for kind, sizes in units.items()},
    )


def _held(name: str, entry: Entry, dtype: torch.dtype) -> int:
    # Quantized data and their scales keep their stored dtype.
    stored = "_weight_" in name or not entry.dtype.is_floating_point
    return math.prod(entry.shape) * (entry.dtype if stored else dtype).itemsize


def _working(folder: Path, dtype: torch.dtype) -> tuple[dict[str, int], dict[str, int]]:
    transformer, vae = _config(folder, "transformer"), _config(folder, "vae")
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    return working_bytes(width, vae["block_out_channels"], dtype)


def working_bytes(
    width: int, vae_channels: list[int], dtype: torch.dtype
) -> tuple[dict[str, int], dict[str, int]]:
    """The bytes beside the weights by phase of the largest request, without and with strips.

    Args:
        width: the transformer's width.
        vae_channels: the channels of the VAE's stages, from full size on.
        dtype: the dtype of the activations.
    """

    def phases(encoded: float, decoded: float) -> dict[str, int]:
        return {
            "references": int(PIXELS * vae_channels[0] * encoded * dtype.itemsize),
            "denoising": TOKENS * width * ROWS_AT_ONCE * dtype.itemsize,
            "decoding": int(PIXELS * vae_channels[1] * decoded * dtype.itemsize),
        }

    return phases(ENCODED_MAPS, DECODED_MAPS), phases(ENCODED_STRIPS, DECODED_STRIPS)


def _config(folder: Path, component: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / component / "config.json").read_bytes())
    return config
