"""The size and the SHA-256 of files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BLOCK = 16 << 20  # bytes read or written at once


@dataclass(frozen=True)
class FileRecord:
    """The size in bytes and the SHA-256 of a file as it should be."""

    bytes: int
    sha256: str


def sha256(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """The digest of a file, in hexadecimal; `progress` is called with the bytes of each block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def record(path: Path) -> FileRecord:
    """The record of a file as it is now."""
    return FileRecord(path.stat().st_size, sha256(path))
