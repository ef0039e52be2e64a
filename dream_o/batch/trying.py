"""Repeats operations on storage that is busy or unreachable for a moment."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from dream_o.errors import UserError, disk_problem

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# The seconds to wait before each further attempt. A store that limits the rate, or a network that
# fails for a moment, usually works again after them.
PAUSES = (0.5, 2.0, 8.0)
# Errors that another attempt would only repeat.
FINAL = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    UserError,
)


def keep_trying(operation: Callable[[], Result]) -> Result:
    """Runs an operation, and repeats it after each of PAUSES if it fails.

    For a lost connection, a timeout or the answer 503, fsspec's file systems raise errors of their
    own libraries. So every error except those in FINAL counts as temporary.

    Args:
        operation: what to run; can be repeated.

    Raises:
        Exception: the error of the last attempt.
    """
    for pause in PAUSES:
        try:
            return operation()
        except FINAL:
            raise
        except Exception as error:
            logger.warning(
                "the storage failed (%s); the next attempt is in %g s", problem_of(error), pause
            )
            time.sleep(pause)
    return operation()


def problem_of(error: BaseException) -> str:
    """A few words about an error, without paths or addresses."""
    return disk_problem(error) if isinstance(error, OSError) else type(error).__name__
