"""Temporary files of Cog's worker process: none outlives its request, its worker or its server."""

import atexit
import os
import resource
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import coglet
from filelock import FileLock, Timeout

from dream_o.runtime.host_memory import give_back_memory

PREFIX = "dream-o-worker-"
LOCK_FILE = ".lock"

READ_POLL_SECONDS = 0.02
HOUSEKEEPING_SECONDS = 1.0
# An output that the server has not opened by then (a cancelled request, a disk without access
# times) is deleted.
OUTPUT_SECONDS = 60.0
# An upload that no prediction has used by then is deleted. Cog may still fetch the request's other
# file all that time.
UPLOAD_SECONDS = 600.0
# The largest file that the worker writes once it is set up: the largest reference that Cog fetches.
MAX_FILE_BYTES = 256 * 2**20

_outputs: set[Path] = set()
_predicting = threading.Event()
# Held as long as this process lives, so that others see that the folder is in use.
_locks: list[FileLock] = []


def start_worker() -> None:
    """Gives the worker a temporary folder of its own and ends it with its server.

    Cog leaves a request's first file behind if it cannot fetch the second, and names no owner; in
    a folder of its own it is recognised. The server ends a worker that is idle or predicting, but
    not one in `setup`, which would load to the end and hold the memory. Folders that killed
    workers left are deleted. Outside Cog's worker this does nothing.
    """
    if coglet.server.active:
        parent = Path(tempfile.gettempdir())
        delete_abandoned(parent)
        folder = parent / f"{PREFIX}{secrets.token_hex(6)}"
        make_folder(folder)
        tempfile.tempdir = str(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        threading.Thread(target=_keep_house, args=(folder, os.getppid()), daemon=True).start()


def limit_file_size() -> None:
    """Bounds what a request can write: Cog fetches references of any length.

    To be called at the end of `setup`, which may write larger files. Outside Cog's worker this
    does nothing.
    """
    if coglet.server.active:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, hard))


def make_folder(folder: Path) -> None:
    """Makes a worker's folder, locked by this process before it has its name."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=folder.parent))
    lock = FileLock(hidden / LOCK_FILE, thread_local=False)
    lock.acquire(blocking=False)
    _locks.append(lock)
    hidden.rename(folder)


def delete_abandoned(parent: Path) -> None:
    """Deletes the worker folders below `parent` whose process is gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            lock = FileLock(folder / LOCK_FILE)
            with lock.acquire(blocking=False):
                shutil.rmtree(folder, ignore_errors=True)


def _keep_house(folder: Path, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(HOUSEKEEPING_SECONDS)
        # A full disk or a cleaner of temporary files must not end this thread.
        with suppress(OSError):
            if not folder.is_dir():
                make_folder(folder)
            if not _predicting.is_set():
                sweep(folder, older_than=UPLOAD_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def sweep(folder: Path, older_than: float = 0.0, keep: tuple[object, ...] = ()) -> None:
    """Deletes the files of requests that failed before `predict` was called.

    Args:
        folder: the worker's temporary folder; its subfolders stay.
        older_than: seconds since the last change of a file to be deleted.
        keep: paths that stay, as outputs do that the server has still to read.
    """
    kept = {Path(path) for path in keep if isinstance(path, os.PathLike)} | _outputs
    kept.add(folder / LOCK_FILE)
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            age = time.time() - path.stat().st_mtime
            if path.is_file() and path not in kept and age >= older_than:
                path.unlink()


@contextmanager
def prediction(*uploads: object) -> Iterator[None]:
    """Around each prediction: files of earlier ones are deleted, and freed memory is given back.

    Args:
        uploads: the request's files; other values are ignored.
    """
    _predicting.set()
    try:
        if coglet.server.active and tempfile.tempdir:
            folder = Path(tempfile.tempdir)
            if not folder.is_dir():
                make_folder(folder)
            sweep(folder, keep=uploads)
        yield
    finally:
        give_back_memory()
        _predicting.clear()


def remove_when_read(path: Path) -> Path:
    """Returns `path`, and deletes it soon after the Cog server has opened it.

    The server reads the file some time after `predict` has returned and leaves it there. It sends
    no signal, but the file's access time changes. An open file can be unlinked safely. Outside
    Cog's worker the file belongs to the caller and stays.
    """
    if coglet.server.active:
        # Disks update an access time that is older than the last change, and few others.
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
        _outputs.add(path)
        threading.Thread(target=_remove_when_read, args=(path,), daemon=True).start()
    return path


def _remove_when_read(path: Path) -> None:
    deadline = time.monotonic() + OUTPUT_SECONDS
    with suppress(FileNotFoundError):
        while path.stat().st_atime_ns == 0 and time.monotonic() < deadline:
            time.sleep(READ_POLL_SECONDS)
        path.unlink()
    _outputs.discard(path)
