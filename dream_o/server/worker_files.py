"""Deletes the temporary files of Cog's worker when their request, worker or server ends."""

import atexit
import os
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import coglet

from dream_o.locked_folders import delete_locked, make_locked, make_temporary
from dream_o.runtime.host_memory import give_back_memory
from dream_o.server.downloads import bound_downloads

READ_POLL_SECONDS = 0.02
HOUSEKEEPING_SECONDS = 1.0
# An output that the server has not opened by then is deleted. The request was cancelled, or the
# disk does not record access times.
OUTPUT_SECONDS = 60.0
# An upload that no prediction has used by then is deleted. Until then, Cog may still be fetching
# the request's other file.
UPLOAD_SECONDS = 600.0
# The largest file that the worker may write after setup, and so the largest reference.
MAX_FILE_BYTES = 256 * 2**20

_outputs: set[Path] = set()
_predicting = threading.Event()
_ending = threading.Event()
# So that no thread makes the folder again which the end of the worker has just deleted.
_housekeeping = threading.Lock()


def start_worker() -> None:
    """Gives the worker its own temporary folder and ends the worker when its server ends.

    If Cog cannot fetch a request's second file, it leaves the first one behind; in the worker's own
    folder such files can be recognised. A server that ends stops a worker that is idle or
    predicting, but not one in `setup`, which would go on loading and keep its memory. Folders of
    killed workers are deleted. Downloads of references are bounded. Outside Cog's worker this does
    nothing.
    """
    if coglet.server.active:
        bound_downloads()
        folder = make_temporary("worker")
        tempfile.tempdir = str(folder)
        atexit.register(_leave, folder)
        threading.Thread(target=_clean_up, args=(folder, os.getppid()), daemon=True).start()


def limit_file_size() -> None:
    """Limits the size of files from now on, because Cog fetches references of any size.

    Call it at the end of `setup`, which may write larger files. Outside Cog's worker this does
    nothing.
    """
    if coglet.server.active:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, hard))


def _leave(folder: Path) -> None:
    with _housekeeping:
        _ending.set()
        delete_locked(folder)


def _clean_up(folder: Path, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(HOUSEKEEPING_SECONDS)
        # A full disk, or another program that deletes temporary files, must not end this thread.
        with suppress(OSError), _housekeeping:
            if _ending.is_set():
                return
            make_locked(folder)
            if not _predicting.is_set():
                sweep(folder, older_than=UPLOAD_SECONDS)
    delete_locked(folder)
    os._exit(1)


def sweep(folder: Path, older_than: float = 0.0, keep: tuple[object, ...] = ()) -> None:
    """Deletes the files of requests that failed before `predict` was called.

    Args:
        folder: the worker's temporary folder; its subfolders stay.
        older_than: only delete files that were last changed this many seconds ago or more.
        keep: paths to keep, such as outputs that the server has not read yet.
    """
    kept = {Path(path) for path in keep if isinstance(path, os.PathLike)} | _outputs
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            age = time.time() - path.stat().st_mtime
            if path.is_file() and path not in kept and age >= older_than:
                path.unlink()


@contextmanager
def prediction(*uploads: object) -> Iterator[None]:
    """Wraps a prediction: deletes the files of earlier ones and returns freed memory to the system.

    Args:
        uploads: the request's files, which are kept; other values are ignored.
    """
    _predicting.set()
    try:
        if coglet.server.active and tempfile.tempdir:
            folder = Path(tempfile.tempdir)
            make_locked(folder)
            sweep(folder, keep=uploads)
        yield
    finally:
        give_back_memory()
        _predicting.clear()


def remove_when_read(path: Path) -> Path:
    """Returns `path`, and deletes it soon after the Cog server has opened it.

    The server reads the file some time after `predict` has returned and does not delete it. The
    only sign is the file's access time. An open file can be unlinked safely. Outside Cog's worker
    the file belongs to the caller and is kept.
    """
    if coglet.server.active:
        # Most disks update an access time only if it is older than the last change.
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
