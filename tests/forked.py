"""Processes that are forks of one which has imported the libraries.

Importing the libraries takes longer than what most tests do in a process of their own. A fork has
its own arguments, environment, folder and output files. Unlike a command, it ends without `atexit`
handlers, and does not see variables that a library reads when it is imported. Tests that need
these start a real command (tests/server/test_predictions.py, tests/test_package.py).
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120


class Forked:
    """A function that runs in a process of its own.

    Attributes:
        process: its process.
        out: the file of what it writes on standard output.
        err: the file of what it writes on standard error.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        logs: Path,
        folder: Path,
        environ: Mapping[str, str] = {},
    ) -> None:
        """Starts it.

        Args:
            function: what it returns is the exit status, as for sys.exit.
            logs: the folder of `out` and `err`.
            folder: the folder in which the function runs.
            environ: added to the environment of the tests.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.preloaded"])
        self.out, self.err = logs / "out.txt", logs / "err.txt"
        place = (self.out, self.err, folder, {**os.environ, **environ})
        self.process = context.Process(target=_run, args=(function, arguments, *place))
        self.process.start()

    @property
    def printed(self) -> str:
        """What it has written on standard output."""
        return _text(self.out)

    @property
    def told(self) -> str:
        """What it has written on standard error."""
        return _text(self.err)

    def wait_for(self, happened: Callable[[], Any]) -> None:
        """Returns when `happened` is true; AssertionError if the process ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert self.process.exitcode is None, self.told
            assert time.monotonic() < deadline, self.told
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Waits for the end; the exit status, or the negative number of the signal."""
        self.process.join(PATIENCE_SECONDS)
        assert self.process.exitcode is not None
        return self.process.exitcode


def run_code(code: str, arguments: Sequence[str]) -> None:
    """Runs a program as `python -c` does; a function for Forked."""
    sys.argv[:] = ["-c", *arguments]
    exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})


def _run(
    function: Callable[..., object],
    arguments: Sequence[object],
    out: Path,
    err: Path,
    folder: Path,
    environ: Mapping[str, str],
) -> None:
    for number, path in ((1, out), (2, err)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.exit(function(*arguments))  # type: ignore[arg-type]


def _text(path: Path) -> str:
    with suppress(FileNotFoundError):
        return path.read_text()
    return ""
