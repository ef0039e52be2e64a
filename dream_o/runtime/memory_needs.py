"""How much GPU memory a bundle needs, by precision and by offloading plan: an estimate."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from dream_o.weights.format.bundle import Bundle
from dream_o.weights.format.layout import WEIGHTED
from dream_o.weights.format.quantized import KINDS, QUANTIZED, is_quantized
from dream_o.weights.format.tensors import Entry, read_model

PLANS = ("none", "text", "model", "group")
"""Offloading, from the least invasive on. `dream_o.runtime.offload` says what each means."""

# The largest request: 1024 x 1024 with two 512 x 512 references, and 512 text tokens.
TOKENS = 1024 * 1024 // 256 + 2 * (512 * 512 // 256) + 512
PIXELS = 1024 * 1024

# Rows of the transformer's width that a single-stream block holds at once: residual, normed, q, k,
# v, attention's output, the MLP before and after its activation (four each), their concatenation
# with attention (five), the projection.
ROWS_AT_ONCE = 20
# Full-size maps that the VAE's last stages hold at once: input, normed, convolved, residual.
MAPS_AT_ONCE = 4
CONTEXT = 800_000_000  # bytes: CUDA's context, cuBLAS's and cuDNN's workspaces


def needs(bundle: Bundle, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """GPU memory in bytes, by precision and plan; the bundle's own precision comes first.

    Args:
        bundle: as `read_bundle` returns it.
        dtype: what is not quantised is held and computed in.
    """
    precision, folder = bundle.precision, bundle.folder
    models = {name: read_model(folder / name, stem) for name, stem in WEIGHTED.items()}
    own = precision if precision in KINDS else str(dtype).removeprefix("torch.")
    sizes = {own: {name: _held(entries, dtype) for name, entries in models.items()}}
    if precision not in KINDS:
        for kind in KINDS:
            sizes[kind] = {
                name: _quantized(name, entries, dtype) if name in QUANTIZED else sizes[own][name]
                for name, entries in models.items()
            }
    working = _working(folder, dtype)
    blocks = {
        "text_encoder_2": _config(folder, "text_encoder_2")["num_layers"],
        "transformer": len(
            {".".join(k.split(".")[:2]) for k in models["transformer"] if "blocks." in k}
        ),
    }
    return {kind: _by_plan(held, blocks, working) for kind, held in sizes.items()}


def _by_plan(held: dict[str, int], blocks: dict[str, int], working: int) -> dict[str, int]:
    # A streamed model leaves about two blocks' worth on the GPU, and its embeddings.
    streamed = {
        name: min(held[name], held[name] * 2 // count + held[name] // 20)
        for name, count in blocks.items()
    }
    small = held["text_encoder"] + held["vae"]
    return {
        "none": sum(held.values()) + working,
        "text": held["transformer"] + small + streamed["text_encoder_2"] + working,
        "model": max(held.values()) + working,
        "group": sum(streamed.values()) + small + working,
    }


def _held(entries: dict[str, Entry], dtype: torch.dtype) -> int:
    return sum(
        math.prod(entry.shape) * _itemsize(name, entry, dtype) for name, entry in entries.items()
    )


def _itemsize(name: str, entry: Entry, dtype: torch.dtype) -> int:
    # Scales and eight-bit data are held as they are stored.
    stored = name.endswith("_weight_scale") or entry.dtype.itemsize == 1
    return entry.dtype.itemsize if stored or not entry.dtype.is_floating_point else dtype.itemsize


def _quantized(component: str, entries: dict[str, Entry], dtype: torch.dtype) -> int:
    total = 0
    for name, entry in entries.items():
        matrix = is_quantized(component, name, len(entry.shape))
        total += math.prod(entry.shape) * (1 if matrix else dtype.itemsize)
        total += entry.shape[0] * 4 if matrix else 0
    return total


def _working(folder: Path, dtype: torch.dtype) -> int:
    transformer, vae = _config(folder, "transformer"), _config(folder, "vae")
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    denoising = TOKENS * width * ROWS_AT_ONCE * dtype.itemsize
    decoding = PIXELS * vae["block_out_channels"][1] * MAPS_AT_ONCE * dtype.itemsize
    return max(denoising, decoding) + CONTEXT


def _config(folder: Path, component: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / component / "config.json").read_bytes())
    return config
