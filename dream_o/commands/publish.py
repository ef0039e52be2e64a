"""Outputs into their places."""

import os
import shutil
from pathlib import Path


def publish(made: Path, target: Path) -> None:
    """Copies the output to its place; a file that is there is replaced in one moment or not."""
    target = target.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(made, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
