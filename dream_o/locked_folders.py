"""Temporary folders that are locked while a process uses them.

A killed process cannot delete its temporary folders. Their locks end with it, so the next process
recognises and deletes them.
"""

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = re.compile(r"dream-o-[a-z]+-[0-9a-f]{12}")

# Locks of folders that this process uses.
_locks: dict[Path, int] = {}


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """Yields a new temporary folder, which is deleted when the block ends.

    Args:
        kind: a word of small letters for the folder's name.
    """
    folder = make_temporary(kind)
    try:
        yield folder
    finally:
        delete_locked(folder)


def make_temporary(kind: str) -> Path:
    """Makes a temporary folder, locked until this process ends or calls `delete_locked`.

    Deletes the temporary folders of killed processes.

    Args:
        kind: a word of small letters for the folder's name.
    """
    parent = Path(tempfile.gettempdir())
    delete_abandoned(parent)
    folder = parent / f"dream-o-{kind}-{secrets.token_hex(6)}"
    make_locked(folder)
    return folder


def make_locked(folder: Path) -> None:
    """Makes a folder that only this user can read; it is locked before it gets its name."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    lock = lock_folder(hidden)
    _unlock(folder)  # somebody else deleted a folder of this name
    if lock is not None:
        _locks[folder] = lock
    hidden.rename(folder)


def delete_locked(folder: Path) -> None:
    """Deletes a folder that `make_locked` has made; does nothing if it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    _unlock(folder)


def delete_abandoned(parent: Path) -> None:
    """Deletes the temporary folders in `parent` whose process has ended."""
    delete_unlocked(each for each in parent.glob("dream-o-*") if NAME.fullmatch(each.name))


def delete_unlocked(folders: Iterable[Path]) -> None:
    """Deletes those of `folders` that no running process has locked."""
    for folder in folders:
        lock = lock_folder(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def lock_folder(folder: Path) -> int | None:
    """Locks a folder until the returned descriptor is closed; None if it is already locked."""
    # Lock the folder itself, because a lock file could be removed before the folder.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None


def _unlock(folder: Path) -> None:
    lock = _locks.pop(folder, None)
    if lock is not None:
        os.close(lock)
