"""The size and the SHA-256 of files."""

import hashlib
from collections.abc import Callable
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
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def record(path: Path) -> FileRecord:
    """The current size and digest of a file."""
    return FileRecord(path.stat().st_size, sha256(path))
