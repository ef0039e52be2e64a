"""Fuses the base model and adapters into a bundle, one tensor at a time."""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dream_o.errors import BundleError
from dream_o.weights.build.documents import write_documents
from dream_o.weights.build.lora import UserLora, read_lora
from dream_o.weights.build.planned import (
    Factors,
    Progress,
    counted,
    merged,
    plan_copy,
    plan_t5,
    plan_transformer,
)
from dream_o.weights.build.recipe import EXTRA_TOKENS, Adapter, recipe
from dream_o.weights.build.single_files import SingleFiles, read_single
from dream_o.weights.build.tokenizer import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    extended_tokenizer,
    tokenizer_config,
)
from dream_o.weights.format.bundle import Bundle, FusedLora, write_model_index, write_unfinished
from dream_o.weights.format.digests import record, sha256
from dream_o.weights.format.layout import COMPONENTS, WEIGHTED
from dream_o.weights.format.models import check_fit
from dream_o.weights.format.staging import staged
from dream_o.weights.format.tensors import (
    Plan,
    read_header,
    read_model,
    weight_files,
    write_file,
    write_model,
)

logger = logging.getLogger(__name__)

NO_FILES = SingleFiles()

LoraSteps = Mapping[str, tuple[Adapter, Factors]]
"""One LoRA's adapter and factors, by component."""


def fuse(
    base: Path,
    adapters: Path,
    version: str,
    output: Path,
    *,
    turbo: bool = True,
    loras: Sequence[UserLora] = (),
    single_files: SingleFiles = NO_FILES,
    dtype: torch.dtype | None = None,
    known: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Merges the adapters of a model version into the base model and writes a bundle.

    Weights are summed in float32, in the recipe's order, and rounded once. The peak memory is a few
    copies of the largest tensor, for models of any size. All keys and shapes are checked before
    the first byte is written. `output` is only created or replaced when the bundle is complete.

    Args:
        base: a diffusers folder with FLUX.1-dev's layout, in safetensors, sharded or not.
        adapters: a folder with the files that `dream_o.weights.build.recipe.RECIPES` names.
        version: a key of RECIPES.
        output: the bundle's folder; an existing bundle is replaced.
        turbo: False leaves FLUX.1-Turbo-Alpha out.
        single_files: files to read base models from; of these models, only the configurations and
            tokenizers are read from `base`.
        loras: user LoRAs, merged after the recipe's adapters in this order; each is kept in memory.
        dtype: the dtype of every tensor in the bundle; None keeps the base model's.
        known: the expected SHA-256 of source files, by `base/...` and `adapters/...`; other files
            are not checked.
        progress: called with the number of bytes written so far and the total.

    Raises:
        BundleError: a file, key or shape does not fit; the message names it.
    """
    steps = recipe(version, turbo)
    tokenizer, length = extended_tokenizer(base / "tokenizer_2", EXTRA_TOKENS)
    plans = plan(
        base, adapters, steps, length, dtype, [read_lora(each) for each in loras], single_files
    )
    for name, planned in plans.items():
        check_fit(name, configuration(base, name, length + len(EXTRA_TOKENS), dtype), planned)
    stored = next(iter(plans["transformer"].values())).dtype
    precision = str(stored).removeprefix("torch.")
    count = counted(plans, progress)

    needed = sum(each.size for planned in plans.values() for each in planned.values())
    with staged(output, needed, [base, adapters]) as stage, ThreadPoolExecutor(1, "sha256") as pool:
        digests = {
            name: pool.submit(sha256, path)
            for name, path in (
                source_files(base, adapters, steps, single_files) | lora_files(loras)
            ).items()
        }
        try:
            for name in COMPONENTS:
                (stage / name).mkdir()
                copy_small_files(base, stage, name, length + len(EXTRA_TOKENS), dtype)
            extended = tokenizer.to_str(pretty=True).encode()
            write_file(stage / "tokenizer_2" / TOKENIZER_FILE, [extended])
            write_model_index(stage)
            files = {
                path.relative_to(stage).as_posix(): record(path)
                for path in sorted(stage.rglob("*"))
                if path.is_file()
            }
            for name, stem in WEIGHTED.items():
                for written in write_model(stage / name, stem, plans[name], progress=count):
                    files[f"{name}/{written.path.name}"] = written.record
            sources = {name: digest.result() for name, digest in digests.items()}
            for name, digest in sources.items():
                if (known or {}).get(name, digest) != digest:
                    raise BundleError(
                        f"{name} has changed since it was downloaded: its SHA-256 is not the one "
                        "in manifest.lock; run dream-o weights download again"
                    )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        fused_loras = tuple(
            FusedLora(each.file.name, sources[name], each.scale)
            for name, each in zip(lora_files(loras), loras, strict=True)
        )
        bundle = Bundle(version, turbo, precision, precision, sources, files, loras=fused_loras)
        write_documents(stage, bundle, base)
        write_unfinished(stage, bundle)
    logger.info("fused %s %s turbo", version, "with" if turbo else "without")
    return bundle


def plan(
    base: Path,
    adapters: Path,
    steps: tuple[Adapter, ...],
    length: int,
    dtype: torch.dtype | None = None,
    loras: Sequence[LoraSteps] = (),
    single_files: SingleFiles = NO_FILES,
) -> dict[str, Plan]:
    """Plans the tensors of each of the bundle's models; reads only the files' headers."""
    opened = {step.file: read_header(adapters / step.file)[0] for step in steps}
    given = single_files.given()
    models: dict[str, Any] = {
        name: read_single(name, given[name]) if name in given else read_model(base / name, stem)
        for name, stem in WEIGHTED.items()
    }
    first = steps[0]
    return {
        "transformer": plan_transformer(
            models["transformer"], steps, opened, dtype, _for("transformer", loras)
        ),
        "text_encoder": merged(models["text_encoder"], _for("text_encoder", loras), dtype),
        "text_encoder_2": plan_t5(
            models["text_encoder_2"], first, opened[first.file], length, dtype
        ),
        "vae": plan_copy(models["vae"], dtype),
    }


def _for(component: str, loras: Sequence[LoraSteps]) -> list[tuple[Adapter, Factors]]:
    return [held[component] for held in loras if component in held]


def lora_files(loras: Sequence[UserLora]) -> dict[str, Path]:
    """The LoRAs' files by their names in the `sources` of `bundle.json`."""
    return {f"loras/{place}/{each.file.name}": each.file for place, each in enumerate(loras, 1)}


def source_files(
    base: Path, adapters: Path, steps: tuple[Adapter, ...], single_files: SingleFiles = NO_FILES
) -> dict[str, Path]:
    """Every file that a bundle is made from, by its name in the `sources` of `bundle.json`."""
    given = single_files.given()
    small = {
        f"base/{name}/{path.name}": path for name in COMPONENTS for path in _small_files(base, name)
    }
    large = {
        f"base/{name}/{path.name}": path
        for name, stem in WEIGHTED.items()
        if name not in given
        for path in weight_files(base / name, stem)
    }
    large |= {f"files/{name}/{path.name}": path for name, path in given.items()}
    return small | large | {f"adapters/{step.file}": adapters / step.file for step in steps}


def _small_files(base: Path, name: str) -> list[Path]:
    component = COMPONENTS[name]
    if not (base / name / component.config).is_file():
        raise BundleError(f"{name}/{component.config} is missing from the base model")
    return sorted(
        path
        for path in (base / name).iterdir()
        if component.allows(path.name) and "safetensors" not in path.name
    )


def copy_small_files(
    base: Path, stage: Path, name: str, vocabulary: int, dtype: torch.dtype | None
) -> None:
    """Copies a component's configuration and vocabulary, adapted to the bundle.

    Args:
        base, stage: the source and the target folder.
        name: a key of COMPONENTS.
        vocabulary: the number of T5's tokens, with the added ones.
        dtype: the dtype of the weights; None for the base model's.
    """
    if name == "tokenizer_2":
        changed = {CONFIG_FILE: tokenizer_config(base / name)}
    else:
        changed = {}
        for path in _small_files(base, name):
            if path.name != "config.json":
                write_file(stage / name / path.name, [path.read_bytes()])
                continue
            changed[path.name] = configuration(base, name, vocabulary, dtype)
    for file, content in changed.items():
        write_file(stage / name / file, [json.dumps(content, indent=2).encode() + b"\n"])


def configuration(
    base: Path, name: str, vocabulary: int, dtype: torch.dtype | None
) -> dict[str, Any]:
    """A component's config.json for the bundle; for the arguments see `copy_small_files`."""
    try:
        config: dict[str, Any] = dict(json.loads((base / name / "config.json").read_bytes()))
    except FileNotFoundError:
        raise BundleError(f"{name}/config.json is missing from the base model") from None
    except (ValueError, TypeError, RecursionError):
        raise BundleError(f"{name}/config.json of the base model cannot be read") from None
    if name == "transformer":
        config["_class_name"] = COMPONENTS[name].class_name
    if name == "text_encoder_2":
        config["vocab_size"] = vocabulary
    if dtype is not None and "torch_dtype" in config:
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
    return config
