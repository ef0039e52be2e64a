"""Runs the Cog server, and ends it when only a restart can help.

    python -m dream_o.server.watch [--supervised] [options of cog.server.http]

Cog 0.23.1 answers UNHEALTHY for ever when its worker process has died, and starts no other one.
Here the server process ends instead, with EXIT_STATUS, so that a supervisor starts it again:
Docker, Kubernetes, systemd or `dream-o serve --restart`.
"""

import argparse
import contextlib
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from dream_o.locked_folders import delete_abandoned
from dream_o.server.health import LOST, NO_ANSWER, SERVING, health

# EX_TEMPFAIL of sysexits.h: trying again later may succeed.
EXIT_STATUS = 75
POLL_SECONDS = 0.5
# A predictor whose process lives may recover, so its health check must fail several times in a row.
FAILURES = 3
PAUSE_SECONDS = 5.0
KILL_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the server in this process until it ends."""
    parser = argparse.ArgumentParser(prog="python -m dream_o.server.watch", add_help=False)
    parser.add_argument("--supervised", action="store_true")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 - Cog's default
    leave_ctrl_c_to_the_server()
    options, others = parser.parse_known_args(argv)
    # The health check is asked on the loopback, unless the server listens on another address alone.
    host = options.host if options.host not in ("0.0.0.0", "localhost") else "127.0.0.1"  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{os.environ.get('PORT', '5000')}"
    watch = threading.Thread(
        target=lambda: end(reason_to_end(address, options.supervised)), daemon=True
    )
    watch.start()
    sys.argv = ["cog.server.http", "--host", options.host, *others]
    try:
        runpy.run_module("cog.server.http", run_name="__main__")
    finally:
        # Cog kills a worker that takes more than ten seconds to end, so it cannot delete its own.
        delete_abandoned(Path(tempfile.gettempdir()))


def leave_ctrl_c_to_the_server() -> None:
    """Ignores Ctrl-C in Python, because the server handles it.

    Python's handler would print a traceback in both of the server's processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def reason_to_end(address: str, supervised: bool, ask: Callable[[str], str] = health) -> str:
    """Waits until the server can serve no longer; returns why.

    Args:
        address: the server's URL.
        supervised: whether a failed setup and the end of the parent process are reasons too.
        ask: returns the state of the server at an address.
    """
    parent = os.getppid()
    failures, has_served = 0, False
    while True:
        time.sleep(PAUSE_SECONDS if failures else POLL_SECONDS)
        if supervised and os.getppid() != parent:
            return "the process that supervises the server has ended"
        state = ask(address)
        if state == "SETUP_FAILED":
            if supervised:
                return "the server's setup failed"
            continue
        has_served = has_served or state in SERVING
        # NO_SERVER is no failure: a server that was told to end finishes its predictions first.
        failed = state in LOST or (has_served and state == NO_ANSWER)
        if failed and not worker_lives():
            return "the server's worker process has died"
        failures = failures + 1 if failed else 0
        if failures == FAILURES:
            return f"the server's health check failed {FAILURES} times in a row ({state})"


def worker_lives() -> bool:
    """Whether this process, the server, has a child that runs."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def end(reason: str) -> None:
    """Ends this process and its children at once, with EXIT_STATUS, and deletes their files."""
    print(f"error: {reason}; ending with status {EXIT_STATUS}", file=sys.stderr, flush=True)
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=KILL_SECONDS)
    delete_abandoned(Path(tempfile.gettempdir()))
    os._exit(EXIT_STATUS)


if __name__ == "__main__":
    main()
