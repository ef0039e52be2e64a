"""DreamO's adapters: the files of each model version and the meaning of their keys.

This module only handles names and shapes; `dream_o.weights.build.fuse` merges the weights.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dream_o.errors import BundleError

if TYPE_CHECKING:
    import torch

TASK_EMBEDDING = "dreamo_task_embedding.weight"
IDX_EMBEDDING = "dreamo_idx_embedding.weight"
T5_EMBEDDING = "dreamo_t5_embedding.weight"
TABLES = frozenset({TASK_EMBEDDING, IDX_EMBEDDING, T5_EMBEDDING})
"""The embedding tables in dreamo.safetensors, besides its low-rank factors."""

EXTRA_TOKENS = (*(f"[ref#{slot}]" for slot in range(1, 10)), "[res]")
"""The T5 tokens that DreamO adds, in the order of the last ten rows of T5_EMBEDDING."""


@dataclass(frozen=True)
class Adapter:
    """One file of a recipe.

    Attributes:
        file: the path in the adapters folder.
        layout: the key of LAYOUTS for the file's names.
        weight: the factor that multiplies the low-rank product before it is added.
        turbo: whether it is FLUX.1-Turbo-Alpha, which can be left out.
    """

    file: str
    layout: str
    weight: float
    turbo: bool = False


_COMMON = (
    Adapter("dreamo.safetensors", "dreamo", 1.0),
    Adapter("dreamo_cfg_distill.safetensors", "dreamo", 1.0),
    Adapter("turbo.safetensors", "diffusers", 1.0, turbo=True),
)

# Source of the files and weights: the loader of the DreamO release (ByteDance/DreamO).
RECIPES: Mapping[str, tuple[Adapter, ...]] = {
    "v1.1": (
        *_COMMON,
        Adapter("v1.1/dreamo_sft_lora.safetensors", "diffusers", 1.0),
        Adapter("v1.1/dreamo_dpo_lora.safetensors", "diffusers", 1.25),
    ),
    "v1": (
        *_COMMON,
        Adapter("dreamo_quality_lora_pos.safetensors", "dreamo", 0.15),
        Adapter("dreamo_quality_lora_neg.safetensors", "dreamo", -0.8),
    ),
}


def recipe(version: str, turbo: bool) -> tuple[Adapter, ...]:
    """The adapters of a model version, in the order in which they are merged.

    Raises BundleError if RECIPES does not have the version.
    """
    if version not in RECIPES:
        raise BundleError(f"model version {version!r} is not known; use {' or '.join(RECIPES)}")
    return tuple(adapter for adapter in RECIPES[version] if turbo or not adapter.turbo)


@dataclass(frozen=True)
class LowRank:
    """What one adapter adds to one module: `up[rows] @ down`, times alpha / rank if it has one.

    Attributes:
        module: diffusers' name of the linear layer, without `.weight`.
        down: the key of the factor (rank, in).
        up: the key of the factor (out, rank), or of several modules' factors stacked along out.
        part: the index of this module's block among the `parts` equal blocks of up's rows.
        alpha: the key of the alpha, if the file has one; without it, the scale is 1.
    """

    module: str
    down: str
    up: str
    part: int = 0
    parts: int = 1
    alpha: str | None = None

    def delta(self, tensor: "Callable[[str], torch.Tensor]", weight: float = 1.0) -> "torch.Tensor":
        """The product times `weight`, float32, with the module's shape (out, in).

        Args:
            tensor: returns the adapter's tensor for a key.
            weight: the factor of the product; multiplied with the alpha first, as in peft.

        Raises BundleError, naming the key, when the two factors do not fit each other.
        """
        down, up = tensor(self.down).float(), tensor(self.up).float()
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            raise BundleError(
                f"{self.up}: shape {list(up.shape)} does not fit {self.down} {list(down.shape)}"
            )
        if up.shape[0] % self.parts:
            raise BundleError(
                f"{self.up}: {up.shape[0]} rows cannot be split into {self.parts} modules"
            )
        rows = up.shape[0] // self.parts
        product = up[self.part * rows : (self.part + 1) * rows] @ down
        if self.alpha is not None:
            weight = weight * tensor(self.alpha).item() / down.shape[0]
        return product.mul_(weight)


def _three(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names)


# The DreamO layout: block kind and name of a factor -> the modules whose rows it has, in order.
# `{}` is the block's number. (Source: the DreamO release's conversion to diffusers' names.)
_DREAMO_MODULES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("double", "qkv_lora1"): _three("transformer_blocks.{}.attn", "to_q", "to_k", "to_v"),
    ("double", "qkv_lora2"): _three(
        "transformer_blocks.{}.attn", "add_q_proj", "add_k_proj", "add_v_proj"
    ),
    ("double", "proj_lora1"): ("transformer_blocks.{}.attn.to_out.0",),
    ("double", "proj_lora2"): ("transformer_blocks.{}.attn.to_add_out",),
    ("single", "qkv_lora"): _three("single_transformer_blocks.{}.attn", "to_q", "to_k", "to_v"),
    ("single", "proj_lora"): ("single_transformer_blocks.{}.proj_out",),
}
_DREAMO_KEY = re.compile(
    r"(?P<factors>(?P<kind>double|single)_blocks_(?P<block>\d+)(?:_processor)?\.(?P<name>\w+))"
    r"\.(?P<end>down|up)\.weight"
)
_DIFFUSERS_KEY = re.compile(
    r"(?P<factors>(?:transformer\.)?(?P<module>[\w.]+?))"
    r"\.(?P<end>lora_A|lora_B|lora_down|lora_up|alpha)(?:\.weight)?"
)
_DIFFUSERS_ENDS = {
    "lora_A": "down",
    "lora_down": "down",
    "lora_B": "up",
    "lora_up": "up",
    "alpha": "alpha",
}


@dataclass(frozen=True)
class _Key:
    """A parsed key: the factor pair that it belongs to, its modules, and which factor it is."""

    factors: str
    modules: tuple[str, ...]
    end: str


def _dreamo_key(key: str) -> _Key | None:
    match = _DREAMO_KEY.fullmatch(key)
    modules = _DREAMO_MODULES.get((match["kind"], match["name"])) if match else None
    if match is None or modules is None:
        return None
    return _Key(match["factors"], tuple(m.format(match["block"]) for m in modules), match["end"])


def _diffusers_key(key: str) -> _Key | None:
    match = _DIFFUSERS_KEY.fullmatch(key)
    if match is None:
        return None
    return _Key(match["factors"], (match["module"],), _DIFFUSERS_ENDS[match["end"]])


LAYOUTS: Mapping[str, Callable[[str], _Key | None]] = {
    "dreamo": _dreamo_key,
    "diffusers": _diffusers_key,
}


def low_ranks(adapter: Adapter, keys: Iterable[str]) -> list[LowRank]:
    """The low-rank factors that an adapter's keys describe.

    Args:
        adapter: the adapter, for its layout.
        keys: every key of its file; those of TABLES are skipped.

    Raises BundleError naming the first key that the layout does not know, or whose other factor
    is missing.
    """
    found: dict[str, dict[str, str]] = {}
    modules: dict[str, tuple[str, ...]] = {}
    for key in keys:
        if key in TABLES:
            continue
        parsed = LAYOUTS[adapter.layout](key)
        if parsed is None:
            raise BundleError(f"{adapter.file}: key {key} is not known")
        found.setdefault(parsed.factors, {})[parsed.end] = key
        modules[parsed.factors] = parsed.modules
    result = []
    for factors, ends in found.items():
        missing = {"down", "up"} - ends.keys()
        if missing:
            raise BundleError(
                f"{adapter.file}: key {next(iter(ends.values()))} has no {missing.pop()} factor"
            )
        parts = len(modules[factors])
        for part, module in enumerate(modules[factors]):
            result.append(LowRank(module, ends["down"], ends["up"], part, parts, ends.get("alpha")))
    return result
