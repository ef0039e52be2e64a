"""The host's memory. It does not import torch, because predict.py imports it before setup."""

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""The folder with a container's limits on Linux (control groups, version 2)."""


def available_memory() -> int:
    """Bytes that this process can still take without swapping, within its container's limit."""
    available: int = psutil.virtual_memory().available
    with suppress(OSError, ValueError, StopIteration):
        limit = int((CGROUP / "memory.max").read_text())
        statistics = (CGROUP / "memory.stat").read_text().splitlines()
        # Only allocated memory counts, because cached pages of files can be dropped.
        taken = next(int(line.split()[1]) for line in statistics if line.startswith("anon "))
        available = min(available, max(0, limit - taken))
    return available


def give_back_memory() -> None:
    """Returns freed memory that glibc has kept to the system.

    The server runs predictions on several threads, and glibc keeps freed memory for each. With
    another C library this does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
