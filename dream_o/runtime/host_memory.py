"""The host's memory. Imports no torch: the predictor's file imports it before setup."""

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits (control groups, version 2)."""


def available_memory() -> int:
    """Bytes that this process can still take without swapping, within its container's limit."""
    available: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError, StopIteration):
        limit = int((CGROUP / "memory.max").read_text())
        statistics = (CGROUP / "memory.stat").read_text().splitlines()
        # Pages of files can be dropped; what was allocated cannot.
        taken = next(int(line.split()[1]) for line in statistics if line.startswith("anon "))
        available = min(available, max(0, limit - taken))
    return available


def give_back_memory() -> None:
    """Returns what the C library keeps of freed tensors to the system.

    The server runs each prediction on whichever thread is free, and glibc keeps freed memory for
    each of them. Where the C library is another, this does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
