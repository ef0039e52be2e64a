"""Tries again what a busy or unreachable storage refuses for a moment."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dream_o.errors import UserError, disk_problem

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Seconds before the second and each further try. A store that limits the rate, or a network that
# is down for a moment, answers again within them.
PAUSES = (0.5, 2.0, 8.0)
# Another try gives the same answer.
FINAL = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    UserError,
)


def keep_trying(operation: Callable[[], Result]) -> Result:
    """What the operation returns; it is tried again after a growing pause while it fails.

    fsspec's file systems raise errors of their own libraries for a lost connection, a timeout or
    the answer 503, so every error counts as one that may pass, except those in FINAL.

    Args:
        operation: can be run several times.

    Raises:
        Exception: the error of the last try.
    """
    for pause in PAUSES:
        try:
            return operation()
        except FINAL:
            raise
        except Exception as error:
            logger.warning("the storage failed (%s); next try in %g s", problem_of(error), pause)
            time.sleep(pause)
    return operation()


def problem_of(error: BaseException) -> str:
    """What went wrong, in a few words without addresses."""
    return disk_problem(error) if isinstance(error, OSError) else type(error).__name__
