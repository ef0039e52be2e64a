"""Room on the disk, and what it refuses: in one sentence, without the paths of this machine."""

import shutil
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.errors import disk_problem as disk_problem

SPARE = 256 << 20  # bytes that a download leaves free on the disk


def check_space(folder: Path, needed: int, task: str, undone: str, spare: int = SPARE) -> None:
    """Raises BundleError when a folder's disk does not hold that many bytes more.

    Args:
        folder: need not be there yet.
        needed: bytes.
        task: what the room is for, as in `to download`.
        undone: what then has not happened, as in `nothing was downloaded`.
        spare: bytes that have to stay free.
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
    """Bytes as a person reads them, such as `23.8 GB` or `268 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
