"""The size and the SHA-256 of files."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BLOCK = 16 << 20  # bytes read or written at once


@dataclass(frozen=True)
class FileRecord:
    """The expected size in bytes and SHA-256 of a file."""

    bytes: int
    sha256: str


def sha256(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """A file's SHA-256 in hexadecimal; calls `progress` with the size of each block."""
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
        if progress is not None:
            progress(len(block))
    return digest.hexdigest()


def read_blocks(path: Path) -> Iterator[memoryview]:
    """A file's blocks of at most BLOCK bytes; each is valid until the next one is asked for.

    A thread reads the next block while the caller works on this one: hashing takes as long as
    reading from a fast disk.
    """
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1, "read") as thread:
        # Most files of a bundle are small: filling two buffers of BLOCK bytes with zeros takes
        # longer than reading one of these.
        length = min(BLOCK, os.fstat(file.fileno()).st_size or BLOCK)
        buffers = itertools.cycle([memoryview(bytearray(length)) for _ in range(2)])
        coming = thread.submit(file.readinto, buffer := next(buffers))
        while size := coming.result():
            block = buffer[:size]
            coming = thread.submit(file.readinto, buffer := next(buffers))
            yield block


def record(path: Path) -> FileRecord:
    """The current size and digest of a file."""
    return FileRecord(path.stat().st_size, sha256(path))
