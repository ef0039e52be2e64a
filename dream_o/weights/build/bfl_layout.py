"""Converts tensor names between Black Forest Labs' single files and diffusers' models.

ComfyUI uses the same single files. The names come from github.com/black-forest-labs/flux
(`model.py`, `modules/layers.py`, `modules/autoencoder.py`) and from diffusers'
`FluxTransformer2DModel` and `AutoencoderKL`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dream_o.errors import BundleError
from dream_o.weights.format.tensors import Entry, Joined, Stored

# The prefix of the transformer's tensors in a ComfyUI checkpoint with all models in one file.
PREFIX = "model.diffusion_model."

# A layer of the single file -> the diffusers layers whose rows it contains, stacked in this order.
_EMBEDDERS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
_DOUBLE_SCALES = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_SINGLE_SCALES = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}

SWAPPED = "norm_out.linear"
"""Its rows are (scale, shift) in diffusers and (shift, scale) in a single file."""


@dataclass(frozen=True)
class Place:
    """The diffusers tensors that one tensor of a single file contains, stacked by rows."""

    names: tuple[str, ...]

    @property
    def swapped(self) -> bool:
        """Whether the two halves of its rows are in the opposite order."""
        return self.names[0].startswith(SWAPPED)


def places(double: int, single: int) -> dict[str, Place]:
    """The tensors of the transformer's single file, by name.

    Args:
        double, single: the numbers of double-stream and single-stream blocks.
    """
    found: dict[str, Place] = {}

    def add(bfl: str, layers: Sequence[str], prefix: str = "", target: str = "") -> None:
        for end in ("weight", "bias"):
            names = tuple(f"{target}{layer}.{end}" for layer in layers)
            found[f"{prefix}{bfl}.{end}"] = Place(names)

    for name, layer in _EMBEDDERS.items():
        add(name, [layer])
    blocks = (
        ("double_blocks", "transformer_blocks", double, _DOUBLE, _DOUBLE_SCALES),
        ("single_blocks", "single_transformer_blocks", single, _SINGLE, _SINGLE_SCALES),
    )
    for bfl_kind, kind, count, linears, scales in blocks:
        for block in range(count):
            prefix, target = f"{bfl_kind}.{block}.", f"{kind}.{block}."
            for bfl, names in linears.items():
                add(bfl, names, prefix, target)
            for bfl, norm in scales.items():
                found[f"{prefix}{bfl}.scale"] = Place((f"{target}{norm}.weight",))
    return found


def transformer_of(entries: Mapping[str, Entry], file: str) -> dict[str, Stored]:
    """Converts the tensors of a transformer's single file to diffusers' names.

    Args:
        entries: the file's tensors. If some have PREFIX, the others belong to other models and are
            ignored.
        file: the file's name, for the error.

    Raises:
        BundleError: a key does not belong in FLUX.1's transformer, or `img_in.weight` is missing.
    """
    if any(key.startswith(PREFIX) for key in entries):
        entries = {k.removeprefix(PREFIX): e for k, e in entries.items() if k.startswith(PREFIX)}
    numbers = [re.match(r"(double|single)_blocks\.(\d+)\.", key) for key in entries]
    counts = {
        kind: 1 + max((int(m[2]) for m in numbers if m and m[1] == kind), default=-1)
        for kind in ("double", "single")
    }
    known = places(counts["double"], counts["single"])
    for key in entries:
        if key not in known:
            raise BundleError(
                f"{file}: {key} is not a tensor of FLUX.1's transformer in this layout"
            )
    if "img_in.weight" not in entries:
        raise BundleError(f"{file} is not FLUX.1's transformer in the single-file layout")
    width = entries["img_in.weight"].shape[0]
    return {
        name: stored
        for key, entry in entries.items()
        for name, stored in _split(known[key], entry, width).items()
    }


def _split(place: Place, entry: Entry, width: int) -> dict[str, Stored]:
    rows = entry.shape[0]
    if place.swapped:
        half = rows // 2
        return {place.names[0]: Joined((entry.rows(half, half), entry.rows(0, half)))}
    if len(place.names) == 1:
        return {place.names[0]: entry}
    # Queries, keys and values are each as wide as the model; the last part is the rest of the rows.
    first = [part * width for part in range(len(place.names))]
    return {
        name: entry.rows(start, end - start)
        for name, start, end in zip(place.names, first, [*first[1:], rows], strict=True)
    }


_VAE = (
    (r"(?P<side>encoder)\.down\.(?P<level>\d+)\.", "{side}.down_blocks.{level}."),
    (r"(?P<side>decoder)\.up\.(?P<level>\d+)\.", "{side}.up_blocks.{reversed}."),
    (r"\.block\.(\d+)\.", r".resnets.\1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.downsample\.", ".downsamplers.0."),
    (r"\.upsample\.", ".upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out."),
)
"""Patterns for names in the autoencoder's single file, and diffusers' names.

The decoder's levels are numbered in the opposite order.
"""


def vae_of(entries: Mapping[str, Entry]) -> dict[str, Stored]:
    """Converts the autoencoder's tensors (`ae.safetensors`) to diffusers' names."""
    levels = 1 + max(
        (int(m[1]) for key in entries if (m := re.match(r"decoder\.up\.(\d+)\.", key))), default=0
    )
    found: dict[str, Stored] = {}
    for key, entry in entries.items():
        name = key
        for pattern, replacement in _VAE:
            if match := re.search(pattern, name):
                parts = match.groupdict()
                if parts:
                    reverse = levels - 1 - int(parts["level"])
                    filled = replacement.format(**parts, reversed=reverse)
                    name = name[: match.start()] + filled + name[match.end() :]
                else:
                    name = re.sub(pattern, replacement, name)
        # Attention's 1 x 1 convolutions in the single file are linear layers in diffusers.
        if ".attentions." in name and len(entry.shape) == 4:
            entry = Entry(entry.file, entry.dtype, entry.shape[:2], entry.start, entry.end)
        found[name] = entry
    return found
