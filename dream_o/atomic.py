"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(target: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Yields an open binary file that replaces `target` when the block ends without an error.

    Until then it is a hidden file in the target's folder, so that the replacement is one rename.
    After an error or a cancellation the hidden file is deleted. A symbolic link stays a link: the
    file that it points to is replaced.

    Args:
        target: the file; its folder must exist.
        durable: flush to the disk before the rename, so that after a power failure either the
            old file or the new one is complete.

    Raises:
        OSError: the file cannot be written.
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
