"""Reads a user's LoRA in any layout that diffusers converts."""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dream_o.errors import BundleError
from dream_o.weights.build.recipe import Adapter
from dream_o.weights.format.tensors import read_header

# Keys that diffusers 0.42.1 drops without a warning, or applies in a way that cannot be merged.
UNSUPPORTED: Mapping[str, re.Pattern[str]] = {
    "a DoRA magnitude": re.compile(r"dora_scale"),
    "a changed bias or norm": re.compile(r"\.diff(_b)?$|\.(set_weight|w_norm|b_norm)$"),
    "a LoKr or LoHa factor": re.compile(r"\.(lokr|hada)_"),
}

# The entry of the file's metadata in which diffusers saves a LoRA's alphas and ranks.
METADATA = "lora_adapter_metadata"

# The end of a key, from the first word that names a part of the low-rank product.
_PART = re.compile(r"\.(lora_[AB]|lora_down|lora_up|alpha|down|up|lora\.(down|up))\b.*$")

TEXT = "text_encoder."
COMPONENTS = ("transformer", "text_encoder")
"""The models that a LoRA for FLUX.1 can change: the transformer and CLIP."""


@dataclass(frozen=True)
class UserLora:
    """A LoRA file and its scale."""

    file: Path
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "tuple[str, float]":
        """Splits `FILE_OR_ADDRESS[=SCALE]` into the file's name or address and the scale.

        Raises:
            BundleError: the scale is not a number.
        """
        name, equals, scale = text.rpartition("=")
        if not equals:
            return text, 1.0
        try:
            return name, float(scale)
        except ValueError:
            raise BundleError(
                f"--lora: {scale!r} is not a scale; use FILE=SCALE, such as style.safetensors=0.8"
            ) from None


@dataclass(frozen=True)
class Held:
    """A tensor in memory, with the interface of `Entry` for one in a file."""

    value: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def tensor(self) -> torch.Tensor:
        """The tensor itself."""
        return self.value


def read_lora(lora: UserLora) -> dict[str, tuple[Adapter, dict[str, Held]]]:
    """Reads the adapters of a file, by component, with keys in diffusers' layout.

    Args:
        lora: a safetensors file in the layout of diffusers, peft, kohya, XLabs or Black Forest
            Labs, as diffusers' own loader reads it.

    Raises:
        BundleError: the file cannot be read, or one of its keys does not fit; names the key.
    """
    entries, metadata = read_header(lora.file)
    name = lora.file.name
    for key in entries:
        for what, pattern in UNSUPPORTED.items():
            if pattern.search(key):
                raise BundleError(f"{name}: key {key} is {what}, which cannot be merged")
    tensors = {key: entry.tensor() for key, entry in entries.items()}
    converted = _convert(tensors, name)
    converted |= _alphas(metadata, converted)
    found: dict[str, tuple[Adapter, dict[str, Held]]] = {}
    for key, value in converted.items():
        component, _, rest = key.partition(".")
        if component not in COMPONENTS:
            raise BundleError(f"{name}: key {key} fits neither the transformer nor CLIP")
        adapter = Adapter(name, "diffusers", lora.scale)
        found.setdefault(component, (adapter, {}))[1][rest] = Held(value)
    if not found:
        raise BundleError(f"{name} contains no LoRA")
    return found


def _convert(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Converts keys to diffusers' layout; BundleError names the first that cannot be converted."""
    with _quiet_diffusers():
        try:
            converted = _by_diffusers(tensors)
        except Exception as error:  # each converter raises its own type for an unknown key
            key = next((key for key, _ in _lost(tensors)), next(iter(tensors), ""))
            raise BundleError(
                f"{name}: key {key} is not in a LoRA layout that diffusers supports for FLUX.1"
            ) from error
        # Some layouts can only be converted as a whole, so a single module may be refused.
        dropped = next((key for key, refused in _lost(tensors) if not refused), None)
    if dropped is not None:
        raise BundleError(f"{name}: key {dropped} fits no module of FLUX.1")
    return converted


def _by_diffusers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from diffusers.loaders import FluxLoraLoaderMixin
    from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft

    state, alphas, _ = FluxLoraLoaderMixin.lora_state_dict(
        dict(tensors), return_alphas=True, return_lora_metadata=True
    )
    # diffusers converts CLIP's keys in a second step while loading them.
    text = {key: value for key, value in state.items() if key.startswith(TEXT)}
    if text:
        state = {key: value for key, value in state.items() if key not in text}
        inside = {key.removeprefix(TEXT): value for key, value in text.items()}
        converted = convert_state_dict_to_peft(convert_state_dict_to_diffusers(inside))
        state |= {TEXT + key: value for key, value in converted.items()}
    return {**state, **{key: torch.as_tensor(value) for key, value in (alphas or {}).items()}}


def _lost(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, bool]]:
    """The first key of each module that the converters drop or refuse if it is converted alone.

    Yields each key with whether it was refused. Modules of zeros have no effect and are ignored.
    """
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        modules.setdefault(_PART.sub("", key), {})[key] = value
    for held in modules.values():
        if not any(value.any() for value in held.values()):
            continue
        try:
            kept = _by_diffusers(held)
        except Exception:
            yield next(iter(held)), True
            continue
        if not kept:
            yield next(iter(held)), False


def _alphas(
    metadata: Mapping[str, str], converted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The alphas that diffusers and peft save in the metadata, under the keys of other layouts.

    peft scales a product by alpha / rank, or by alpha / sqrt(rank) for `use_rslora`.
    """
    try:
        described: dict[str, Any] = json.loads(metadata.get(METADATA, "{}"))
    except ValueError:
        return {}
    alphas = {}
    for key, down in converted.items():
        module, end, _ = key.partition(".lora_A")
        component, _, inside = module.partition(".")
        default = described.get(f"{component}.lora_alpha")
        if not end or default is None or f"{module}.alpha" in converted:
            continue
        patterns: dict[str, float] = described.get(f"{component}.alpha_pattern") or {}
        alpha = next((a for p, a in patterns.items() if _names(p, inside)), default)
        rank = down.shape[0]
        root = math.sqrt(rank) if described.get(f"{component}.use_rslora") else 1.0
        alphas[f"{module}.alpha"] = torch.tensor(float(alpha) * root, dtype=torch.float64)
    return alphas


def _names(pattern: str, module: str) -> bool:
    # peft's rule: the pattern matches the module's name, or the end of it after a dot.
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    # diffusers' warnings give the keys' names after conversion; the errors here give the file's.
    library = logging.getLogger("diffusers")
    before = library.level
    library.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        library.setLevel(before)
