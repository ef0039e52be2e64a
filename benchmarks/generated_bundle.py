"""Generates a bundle of about a given size with random weights."""

import argparse
import os
import shutil
from pathlib import Path

import torch

from benchmarks.models import Size, generate_adapters, generate_base
from dream_o.weights.build.fuse import fuse

GIGABYTES = 8.0
BLOCK = 16 << 20

# Bytes in bfloat16 at FLUX.1's width: a single-stream block, and everything else.
_SINGLE_BLOCK = 0.283
_OTHERS = 1.2
_SMALLEST = Size(heads=1, double=1, single=1, t5_layers=1, rank=2)


def add_size(parser: argparse.ArgumentParser) -> None:
    """Adds `--gb`."""
    parser.add_argument(
        "--gb",
        type=float,
        default=GIGABYTES,
        help="gigabytes of the generated bundle (%(default)s); the smallest has about 2",
    )


def bundle_of(gigabytes: float, folder: Path) -> Path:
    """Generates the bundle and returns its folder."""
    size = _SMALLEST
    if gigabytes >= 2:
        singles = max(1, round((gigabytes - _OTHERS) / _SINGLE_BLOCK))
        size = Size(heads=24, double=1, single=singles, t5_layers=1, rank=2)
    parts = folder.with_name("parts")
    generate_base(parts / "base", size, torch.bfloat16)
    generate_adapters(parts / "adapters", size, torch.bfloat16)
    fuse(parts / "base", parts / "adapters", "v1.1", folder)
    shutil.rmtree(parts)
    return folder


def read_all(folder: Path) -> int:
    """Reads all files one after the other; returns the number of bytes."""
    total, buffer = 0, bytearray(BLOCK)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


warm = read_all
"""Reads a folder into the page cache, as far as it has room."""


def forget(folder: Path) -> None:
    """Removes a folder's files from the page cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
