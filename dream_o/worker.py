"""What the predictor's process, the worker, owes the Cog server's front process."""

import ctypes
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import coglet

READ_POLL_SECONDS = 0.02
ORPHAN_POLL_SECONDS = 1.0
# A file that nobody has read by then (a cancelled request, a disk without access times) goes too.
PATIENCE_SECONDS = 60.0


def end_with_server() -> None:
    """Ends this process soon after the front process has ended.

    The server ends an idle or predicting worker itself, but one that is still in `setup` would
    load to the end and hold the memory. Outside the server's worker this does nothing.
    """
    if coglet.server.active:
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_POLL_SECONDS)
    os._exit(1)


def give_back_memory() -> None:
    """Returns what the C library keeps of freed tensors to the system.

    The server runs each prediction in whichever thread is free, and glibc keeps freed memory for
    each of them. Where the C library is another, this does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def remove_when_read(path: Path) -> Path:
    """`path`, which is deleted soon after the Cog server has opened it; the server leaves it there.

    The server's front process reads the file some time after `predict` has returned and says
    nothing about it, but the file's access time does. An open file can be unlinked safely. Outside
    the server's worker the file is the caller's and stays.
    """
    if coglet.server.active:
        # Disks update an access time that is older than the last change, and few others.
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
        threading.Thread(target=_remove_when_read, args=(path,), daemon=True).start()
    return path


def _remove_when_read(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    with suppress(FileNotFoundError):
        while path.stat().st_atime_ns == 0 and time.monotonic() < deadline:
            time.sleep(READ_POLL_SECONDS)
        path.unlink()
