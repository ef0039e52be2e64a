"""Temporary folders that are locked while a process uses them.

A killed process cannot delete its temporary folders. Their locks end with it, so the next process
of the same user on the same machine recognises and deletes them.
"""

import atexit
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Machines may share the folder in which these folders lie, but on most such disks they do not see
# each other's locks.
MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
NAME = re.compile(f"dream-o-[a-z]+-{MACHINE}-[0-9a-f]{{12}}")

# The locks of the folders that this process uses.
_locks: dict[Path, int] = {}
_making = threading.Lock()
_process = os.getpid()
# Where this process has looked for abandoned folders.
_searched: set[Path] = set()


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
    """Makes a temporary folder, locked until `delete_locked` or the end of this process.

    The first call also deletes the temporary folders of killed processes.

    Args:
        kind: a word of small letters for the folder's name.
    """
    parent = Path(tempfile.gettempdir())
    if parent not in _searched:
        _searched.add(parent)
        delete_abandoned(parent)
    folder = parent / f"dream-o-{kind}-{MACHINE}-{secrets.token_hex(6)}"
    make_locked(folder)
    return folder


def make_locked(folder: Path) -> None:
    """Makes a folder that only this user can read, and locks it; does nothing if it is there.

    Raises:
        OSError: the folder cannot be made.
    """
    with _making:
        if folder.is_dir():
            return
        # It gets its name when it is locked, because other processes find it by its name.
        hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            lock = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            hidden.rmdir()
            raise
        try:
            with suppress(OSError):  # on a disk without locks, nobody can take it for abandoned
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(folder)
        except OSError:
            hidden.rmdir()
            os.close(lock)
            raise
        _unlock(folder)  # of an earlier folder of this name, which somebody else has deleted
        _locks[folder] = lock


def delete_locked(folder: Path) -> None:
    """Deletes a folder that `make_locked` has made, and ends its lock."""
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
            # The folder may have been exchanged since it was opened.
            with suppress(OSError):
                if os.path.samestat(os.fstat(lock), folder.lstat()):
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


@atexit.register
def _delete_all() -> None:
    if os.getpid() == _process:  # not in a forked child, whose parent still uses them
        for folder in list(_locks):
            delete_locked(folder)
