"""How a command ends: its exit status, and one line on standard error after an error."""

import sys
from collections.abc import Callable

from dream_o.errors import UserError, disk_problem

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def exit_status(run: Callable[[], int | None], interrupted: str) -> int:
    """Runs a command and returns its exit status; None counts as 0.

    Args:
        run: may raise a UserError, an OSError of the disk, or KeyboardInterrupt.
        interrupted: what Ctrl-C leaves, for the line `error: interrupted; ...`.
    """
    try:
        return run() or 0
    except UserError as error:
        problem, status = str(error), FAILED
    except OSError as error:
        problem, status = disk_problem(error), FAILED
    except KeyboardInterrupt:
        problem, status = f"interrupted; {interrupted}", INTERRUPTED
    print(f"error: {problem}", file=sys.stderr)
    return status
