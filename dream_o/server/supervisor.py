"""Starts a server again whenever it ends with an error: `dream-o serve --restart`."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
# A server that lasted this long had started well, so the next pause is short again.
STEADY_SECONDS = 120.0


def keep_running(
    command: Sequence[str], environment: Mapping[str, str], folder: os.PathLike[str]
) -> int:
    """Runs a command until it ends with status 0 or this process is told to end.

    Each time it ends otherwise, it is started again after a pause; pauses double from
    FIRST_PAUSE_SECONDS to MAX_PAUSE_SECONDS. SIGTERM and SIGHUP are passed on.

    Args:
        command: the program and its arguments.
        environment: its environment.
        folder: its working folder.

    Returns:
        0, or the status with which the command ended after a signal to this process.
    """
    pause = FIRST_PAUSE_SECONDS
    with _Signals() as signals:
        while True:
            begun = time.monotonic()
            server = subprocess.Popen(command, env=environment, cwd=folder)  # noqa: S603 - our own
            with signals.pass_to(server):
                status = server.wait()
            if status == 0 or signals.received.is_set():
                return max(status, 0)
            if time.monotonic() - begun > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            ended = f"status {status}" if status > 0 else signal.Signals(-status).name
            print(
                f"the server ended with {ended}; it starts again in {pause:g} s",
                file=sys.stderr,
                flush=True,
            )
            if signals.received.wait(pause):
                return 0
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


class _Signals:
    """Passes this process's signals on to its child."""

    def __init__(self) -> None:
        self.received = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "_Signals":
        self._before = {
            number: signal.signal(number, self._take)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def pass_to(self, process: "subprocess.Popen[bytes]") -> Iterator[None]:
        """Passes signals to this process while the block runs."""
        self._process = process
        if self.received.is_set():
            process.terminate()
        try:
            yield
        finally:
            self._process = None

    def _take(self, number: int, _: object) -> None:
        self.received.set()
        # A terminal sends Ctrl-C to the child as well.
        if self._process is not None and number != signal.SIGINT:
            self._process.send_signal(number)
