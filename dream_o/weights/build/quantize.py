"""Quantizes a bundle: stores the linear layers' weights in fewer bits, one tensor at a time.

Quantization is weight-only: products are computed in the activations' dtype. int8 and fp8 have one
float32 scale a row; int4 has a scale and an offset for every group of GROUP weights. The files have
torchao's format for its tensors, so that diffusers and transformers load them without changes.
"""

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dream_o.errors import BundleError
from dream_o.int4_linear import GROUP, in_four_bits, packed
from dream_o.version import __version__
from dream_o.weights.build.documents import write_documents
from dream_o.weights.build.planned import Progress, converted, counted, plan_copy
from dream_o.weights.format.bundle import (
    Bundle,
    check_file,
    read_bundle,
    torch_dtype,
    write_unfinished,
)
from dream_o.weights.format.digests import FileRecord, record
from dream_o.weights.format.layout import COMPONENTS, KINDS, WEIGHTED
from dream_o.weights.format.quantized import QUANTIZED, changed, is_quantized, kind_of
from dream_o.weights.format.staging import staged
from dream_o.weights.format.tensors import (
    Entry,
    Plan,
    Planned,
    read_model,
    tensor_blocks,
    write_file,
    write_model,
)

logger = logging.getLogger(__name__)

# Everything else is stored in one of these dtypes; a float32 bundle becomes bfloat16.
SIXTEEN_BITS = ("bfloat16", "float16")


@dataclass(frozen=True)
class Kind:
    """One way to quantize.

    Attributes:
        config: returns torchao's configuration, which the libraries read from `config.json`.
        quantize: turns a float32 matrix into torchao's tensor; the second argument is the dtype of
            its products.
        divisor: the length of rows must be a multiple of it.
    """

    config: Callable[[], Any]
    quantize: Callable[[torch.Tensor, torch.dtype], torch.Tensor]
    divisor: int = 1


def kinds() -> dict[str, Kind]:
    """The values of `--to`. Imports torchao here because the import is slow."""
    from torchao.quantization import (
        Float8Tensor,
        Float8WeightOnlyConfig,
        Int4WeightOnlyConfig,
        Int8Tensor,
        Int8WeightOnlyConfig,
        PerRow,
    )

    def by_rows(made_of: Any) -> Callable[[torch.Tensor, torch.dtype], torch.Tensor]:
        return lambda matrix, dtype: changed(
            made_of.from_hp(matrix, granularity=PerRow()), dtype=dtype
        )

    return {
        "int8": Kind(Int8WeightOnlyConfig, by_rows(Int8Tensor)),
        "fp8": Kind(Float8WeightOnlyConfig, by_rows(Float8Tensor)),
        "int4": Kind(functools.partial(Int4WeightOnlyConfig, group_size=GROUP), _by_groups, GROUP),
    }


def _by_groups(matrix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from torchao.quantization import Int4Tensor

    levels, scale, offset = in_four_bits(matrix, dtype)
    return Int4Tensor(
        packed(levels),
        scale.t().contiguous(),
        offset.t().contiguous(),
        [1, GROUP],
        matrix.shape,
    )


def quantize(
    source: Path,
    to: str,
    output: Path,
    *,
    progress: Progress | None = None,
) -> Bundle:
    """Writes a bundle with a quantized transformer and T5.

    Args:
        source: a bundle that is not quantized; all its files are checked first.
        to: one of `dream_o.weights.format.layout.KINDS`.
        output: the new bundle's folder; an existing bundle is replaced.
        progress: called with the number of bytes written so far and the total.

    Raises:
        BundleError: the source is damaged or already quantized, or a matrix has rows that cannot be
            divided into groups.
    """
    bundle = read_bundle(source)
    if bundle.precision in KINDS:
        raise BundleError(f"{source.name} is already quantized; use the bundle it was made from")
    for name, expected in bundle.files.items():
        check_file(source, name, expected)
    kind = {name: kinds()[kind_of(to, name)] for name in QUANTIZED}
    dtype = torch_dtype(bundle.dtype if bundle.dtype in SIXTEEN_BITS else "bfloat16")
    plans: dict[str, Plan] = {}
    metadata: dict[str, dict[str, str]] = {}
    for name, stem in WEIGHTED.items():
        entries = read_model(source / name, stem)
        if name in QUANTIZED:
            plans[name], metadata[name] = plan_quantized(name, entries, kind[name], dtype)
        else:
            plans[name] = plan_copy(entries, dtype)
    count = counted(plans, progress)
    needed = sum(each.size for planned in plans.values() for each in planned.values())
    with staged(output, needed, [source]) as stage:
        for name in COMPONENTS:
            (stage / name).mkdir()
        files: dict[str, FileRecord] = {}
        for name in bundle.files:
            if "safetensors" in name:
                continue
            content = (source / name).read_bytes()
            component = name.partition("/")[0]
            if name == f"{component}/config.json":
                content = _config(content, component, kind.get(component), dtype)
            write_file(stage / name, [content])
            files[name] = record(stage / name)
        for name, stem in WEIGHTED.items():
            for written in write_model(
                stage / name, stem, plans[name], metadata.get(name), progress=count
            ):
                files[f"{name}/{written.path.name}"] = written.record
        quantized = replace(
            bundle,
            precision=to,
            dtype=str(dtype).removeprefix("torch."),
            files=files,
            tool_version=__version__,
        )
        write_documents(stage, quantized, source)
        write_unfinished(stage, quantized)
    return quantized


def plan_quantized(
    component: str, entries: Mapping[str, Entry], kind: Kind, dtype: torch.dtype
) -> tuple[Plan, dict[str, str]]:
    """Plans the tensors of a quantized model; also returns the metadata for each of its shards.

    Args:
        component: the model's name in the bundle, such as `transformer`.
        entries: the model's tensors.
        kind: how the linear layers' weights are quantized.
        dtype: the dtype of everything else, and of the products.
    """
    plan: Plan = {}
    metadata = {"tensor_names": json.dumps(list(entries))}

    @functools.lru_cache(maxsize=1)  # the parts of a matrix are written one after the other
    def parts(name: str) -> dict[str, torch.Tensor]:
        return _flat(name, kind, dtype, entries[name].tensor().float())[0]

    @functools.cache
    def stand_in(shape: tuple[int, ...]) -> tuple[dict[str, torch.Tensor], str]:
        tensors, described = _flat("m.weight", kind, dtype, torch.zeros(shape))
        return {name: t.to("meta") for name, t in tensors.items()}, described["m.weight"]

    for name, entry in entries.items():
        if not is_quantized(component, name, len(entry.shape)):
            plan[name] = converted(entry, dtype)
            metadata[name] = json.dumps({"_type": "Tensor"})
            continue
        if entry.shape[1] % kind.divisor:
            raise BundleError(
                f"{component}: {name} has rows of {entry.shape[1]} numbers, which cannot be "
                f"divided into groups of {kind.divisor}; use another precision"
            )
        shapes, metadata[name] = stand_in(entry.shape)
        module = name.removesuffix(".weight")
        for part, like in shapes.items():
            full = f"{module}.{part.removeprefix('m.')}"

            def blocks(name: str = name, full: str = full) -> Iterator[memoryview]:
                yield from tensor_blocks(parts(name)[full])

            plan[full] = Planned(like.dtype, tuple(like.shape), blocks)
    return plan, metadata


def _flat(
    name: str, kind: Kind, dtype: torch.dtype, matrix: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    tensors, metadata = flatten_tensor_state_dict({name: kind.quantize(matrix, dtype)})
    return tensors, metadata


def _config(content: bytes, component: str, kind: Kind | None, dtype: torch.dtype) -> bytes:
    from diffusers import TorchAoConfig as DiffusersConfig
    from transformers import TorchAoConfig as TransformersConfig

    config = json.loads(content)
    if "torch_dtype" in config:
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
    if kind is not None:
        of_library = {"diffusers": DiffusersConfig, "transformers": TransformersConfig}
        library = "diffusers" if component == "transformer" else "transformers"
        config["quantization_config"] = of_library[library](kind.config()).to_dict()
    return json.dumps(config, indent=2, default=str).encode() + b"\n"
