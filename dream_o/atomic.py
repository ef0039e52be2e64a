"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(target: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """An open binary file that takes the place of `target` when the block ends without an error.

    Until then it is a hidden file beside the target, so that the exchange is one rename. After an
    error or a cancellation nothing of it is left. A target that is a link stays a link.

    Args:
        target: the file; its folder must exist.
        durable: write through to the disk before the exchange, so that a loss of power leaves
            the old file or the new one.

    Raises:
        OSError: the disk refuses the file.
    """
    target = target.resolve()
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
