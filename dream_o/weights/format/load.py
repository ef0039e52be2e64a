"""Loads a bundle's models into memory and checks every file."""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dream_o.errors import BundleError
from dream_o.weights.format.bundle import Bundle, check_file, opened, torch_dtype
from dream_o.weights.format.digests import FileRecord, read_blocks
from dream_o.weights.format.layout import KINDS, WEIGHTED
from dream_o.weights.format.quantized import set_product_dtype
from dream_o.weights.format.tensors import read_model, weight_files

logger = logging.getLogger(__name__)


def load_components(
    bundle: str | os.PathLike[str] | Bundle, dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """Loads the pipeline's components onto the CPU, in evaluation mode.

    Other threads hash the files while they are loaded, so that each is read from the disk only
    once. The files of a bundle that was verified during its download are not hashed again.

    Args:
        bundle: a bundle's folder, or a Bundle from `read_bundle`.
        dtype: the dtype of the models; None keeps that of the files.

    Raises:
        BundleError: the folder is not a bundle, or a file is damaged; names the file.
    """
    bundle = opened(bundle)
    folder = bundle.folder
    dtype = dtype or torch_dtype(bundle.dtype)
    large = {name for name in bundle.files if name.endswith(".safetensors")}
    check = _read_file if bundle.verified else check_file
    for name, expected in bundle.files.items():
        if name not in large:
            check(folder, name, expected)
    for component, stem in WEIGHTED.items():
        for path in weight_files(folder / component, stem):
            if f"{component}/{path.name}" not in large:
                raise BundleError(f"{component}/{path.name} is missing from the weights bundle")
        read_model(folder / component, stem)
    # Mapping the files is instant. Reading them takes the time, and is what the bar shows.
    start, total = time.perf_counter(), sum(bundle.files[name].bytes for name in large)
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="loading") as bar,
        ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="sha256") as pool,
    ):
        checks = [
            pool.submit(check, folder, name, expected, bar.update)
            for name, expected in sorted(
                bundle.files.items(), key=lambda item: item[1].bytes, reverse=True
            )
            if name in large
        ]
        try:
            components = _load(folder, dtype)
            if bundle.precision in KINDS:
                for name in WEIGHTED:
                    set_product_dtype(components[name], dtype)
        except Exception as error:
            _raise_damage(checks)
            if isinstance(error, BundleError):
                raise
            raise BundleError(
                f"the weights bundle {folder.name!r} cannot be loaded: {type(error).__name__}"
            ) from error
        _raise_damage(checks)
    done = "read" if bundle.verified else "read and checked"
    logger.info("%s %.2f GB in %.1f s", done, total / 1e9, time.perf_counter() - start)
    return components


def _read_file(
    folder: Path,
    name: str,
    expected: FileRecord,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Reads a file, so that the pages of its mapped tensors are in the page cache."""
    for block in read_blocks(folder / name):
        if progress is not None:
            progress(len(block))


def _raise_damage(checks: list[Future[None]]) -> None:
    for check in checks:
        check.result()


def _load(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    # Slow to import, and not needed for fusing or describing bundles.
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging as transformers_logging

    from dream_o.weights.format.models import check_loaded, model_classes

    for logging_of in (transformers_logging, diffusers_logging):
        logging_of.disable_progress_bar()  # load_components shows one bar for all files, in bytes
    # Class names in a bundle's files are never used.
    # tokenizer_2 is not a T5TokenizerFast: since transformers 5 that class replaces
    # tokenizer.json's pre-tokenizer with its own, which drops the word mark before a `[ref#N]`.
    classes: dict[str, Any] = {
        "scheduler": FlowMatchEulerDiscreteScheduler,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": PreTrainedTokenizerFast,
        **model_classes(),
    }
    components = {}
    for name, loaded_class in classes.items():
        start = time.perf_counter()
        options: dict[str, Any] = {"local_files_only": True}
        if name in WEIGHTED:
            options |= {"torch_dtype": dtype, "use_safetensors": True}
            component, loaded = loaded_class.from_pretrained(
                folder / name, output_loading_info=True, **options
            )
            check_loaded(name, component, loaded)
            components[name] = component.eval()
        else:
            components[name] = loaded_class.from_pretrained(folder / name, **options)
        logger.info("loaded %s in %.2f s", name, time.perf_counter() - start)
    return components
