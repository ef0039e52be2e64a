"""What the predictor's process, the worker, owes the Cog server's front process and the machine."""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import coglet

from dream_o.runtime.host_memory import give_back_memory

READ_POLL_SECONDS = 0.02
HOUSEKEEPING_SECONDS = 1.0
# A file that nobody has read by then (a cancelled request, a disk without access times) goes too.
PATIENCE_SECONDS = 60.0

_outputs: set[Path] = set()
_predicting = threading.Event()


def settle_in() -> None:
    """Gives the server's worker a temporary folder of its own, and an end when the server ends.

    Cog leaves the files of a request behind whose other file it could not fetch; in a folder of
    our own they can be told from everybody else's. And the server ends a worker that is idle or
    predicting, but not one that is still in `setup`: that would load to the end and hold the
    memory. Outside the server's worker this does nothing.
    """
    if coglet.server.active:
        folder = Path(tempfile.mkdtemp(prefix="dream-o-"))
        tempfile.tempdir = str(folder)
        threading.Thread(target=_keep_house, args=(folder, os.getppid()), daemon=True).start()


def _keep_house(folder: Path, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(HOUSEKEEPING_SECONDS)
        if not _predicting.is_set():
            sweep(folder, older_than=PATIENCE_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def sweep(folder: Path, older_than: float = 0.0, keep: tuple[object, ...] = ()) -> None:
    """Deletes the files of requests that failed before `predict` was called.

    Args:
        folder: the worker's temporary folder; what is in folders of it stays.
        older_than: seconds since the last change of a file that goes.
        keep: paths that stay, as do outputs that the server has still to read.
    """
    kept = {Path(path) for path in keep if isinstance(path, os.PathLike)} | _outputs
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            age = time.time() - path.stat().st_mtime
            if path.is_file() and path not in kept and age >= older_than:
                path.unlink()


@contextmanager
def prediction(*uploads: object) -> Iterator[None]:
    """Around each prediction: nothing of earlier ones is left, and freed memory is given back.

    Args:
        uploads: the request's files; other values are ignored.
    """
    _predicting.set()
    try:
        if coglet.server.active and tempfile.tempdir:
            sweep(Path(tempfile.tempdir), keep=uploads)
        yield
    finally:
        give_back_memory()
        _predicting.clear()


def remove_when_read(path: Path) -> Path:
    """`path`, which is deleted soon after the Cog server has opened it; the server leaves it there.

    The server's front process reads the file some time after `predict` has returned and says
    nothing about it, but the file's access time does. An open file can be unlinked safely. Outside
    the server's worker the file is the caller's and stays.
    """
    if coglet.server.active:
        # Disks update an access time that is older than the last change, and few others.
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
        _outputs.add(path)
        threading.Thread(target=_remove_when_read, args=(path,), daemon=True).start()
    return path


def _remove_when_read(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    with suppress(FileNotFoundError):
        while path.stat().st_atime_ns == 0 and time.monotonic() < deadline:
            time.sleep(READ_POLL_SECONDS)
        path.unlink()
    _outputs.discard(path)
