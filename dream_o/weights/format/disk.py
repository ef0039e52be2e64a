"""Checks free disk space. Errors are one sentence without paths of this machine."""

import shutil
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.errors import disk_problem as disk_problem

SPARE = 256 << 20  # bytes that a download leaves free on the disk


def check_space(folder: Path, needed: int, task: str, undone: str, spare: int = SPARE) -> None:
    """Raises BundleError unless a folder's disk has enough free space.

    Args:
        folder: the folder, which need not exist yet.
        needed: the number of bytes to be written.
        task: what the space is for, such as `to download`.
        undone: what did not happen, such as `nothing was downloaded`.
        spare: the number of bytes that must stay free.
    """
    present = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    free = shutil.disk_usage(present).free
    if needed and free < needed + spare:
        kept = f", of which {size_text(spare)} stay free" if spare else ""
        raise BundleError(
            f"not enough disk space: {size_text(needed)} {task}, {size_text(free)} free{kept}; "
            f"{undone}"
        )


def size_text(size: int) -> str:
    """A number of bytes as text, such as `23.8 GB` or `268 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
