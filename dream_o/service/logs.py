"""Writes the project's log to standard error."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, because the Cog server gives each prediction its own."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def log_to_stderr() -> None:
    """Shows the project's messages from INFO up; calling it again changes nothing."""
    logger = logging.getLogger("dream_o")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


@contextmanager
def silence() -> Iterator[None]:
    """Logs nothing inside the block: for checks that are made again where they are logged."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
