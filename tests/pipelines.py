"""Pipelines of small bundles: read from the disk once in a process, copied for each test."""

import copy
import functools
from pathlib import Path

import torch

from dream_o.pipeline import DreamOPipeline


def pipeline_of(bundle: Path, dtype: torch.dtype = torch.float32) -> DreamOPipeline:
    """A bundle's pipeline, with models of its own; bundles with the same path are the same."""
    read = _read(bundle, dtype)
    pipeline = DreamOPipeline(
        **{
            name: part if "tokenizer" in name else copy.deepcopy(part)
            for name, part in read.components.items()
        }
    )
    pipeline.bundle = read.bundle
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@functools.cache
def _read(bundle: Path, dtype: torch.dtype) -> DreamOPipeline:
    return DreamOPipeline.from_pretrained(bundle, torch_dtype=dtype)
