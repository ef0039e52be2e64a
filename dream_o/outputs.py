"""The output file between the predictor, which writes it, and the Cog server, which reads it."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import coglet

POLL_SECONDS = 0.02
# A file that nobody has read by then (a cancelled request, a disk without access times) goes too.
PATIENCE_SECONDS = 60.0


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
            time.sleep(POLL_SECONDS)
        path.unlink()
