"""A server that is attacked: `serve --restart` with temporary folders of its own."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from benchmarks import ROOT
from dream_o.errors import UserError

PATIENCE_SECONDS = 300.0
LOOK_AGAIN_SECONDS = 0.02
# What no answer may have in it.
LEAK = re.compile(r"Traceback|site-packages|\.py\b|panicked at|" + re.escape(str(ROOT)))


class Served:
    """A server in processes of its own.

    Attributes:
        temporary: its temporary folder.
        log: what it wrote.
        problems: what it did and should not have done.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *arguments: str,
        temporary: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.temporary = temporary or folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.log = folder / "server.log"
        self.problems: list[str] = []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own
                [
                    *(sys.executable, "-m", "dream_o", "serve", "--restart"),
                    *("--port", str(self.port), *arguments),
                ],
                cwd=folder,
                stdout=log,
                stderr=log,
                env=os.environ
                | {
                    "PYTHONPATH": str(ROOT),
                    "TMPDIR": str(self.temporary),
                    "DREAM_O_DEVICE": "cpu",
                    "DREAM_O_REFERENCES": "offline",
                }
                | environment,
            )

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}
    ) -> tuple[int, Any]:
        """Status and JSON of an answer, which is searched for what it may not have in it.

        Raises:
            OSError: there is no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.request(
                method, path, content, {"Content-Type": "application/json", **headers}
            )
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        self.check(f"{method} {path}", answer.status, text)
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    def check(self, what: str, status: int, text: str) -> None:
        """Notes an answer that no client should get."""
        told = re.sub(r'"output":\s*"data:[^"]*"', "", text)
        if status >= 500 and status != 503:
            self.problems.append(f"{what}: {status} {told[:200]}")
        if LEAK.search(told) or str(self.temporary) in told:
            self.problems.append(f"{what}: a path or traceback: {told[:300]}")

    def state(self) -> str:
        """What its health check says; NONE without an answer."""
        try:
            return str(self.call("GET", "/health-check")[1]["status"])
        except (OSError, ValueError, TypeError, KeyError):
            return "NONE"

    def ready(self) -> float:
        """Waits until it takes a request; the seconds that this took."""
        return until(lambda: self.state() == "READY", "the server to be ready", self.log)

    def predict(self, inputs: Mapping[str, Any]) -> Any:
        """A finished prediction, or the body of another answer."""
        while True:
            status, body = self.call("POST", "/predictions", {"input": inputs})
            if status != 409:
                return body
            time.sleep(LOOK_AGAIN_SECONDS)

    def server(self) -> psutil.Process:
        """The process of the Cog server."""
        (server,) = psutil.Process(self.process.pid).children()
        return server

    def worker(self) -> psutil.Process:
        """The process of the predictor."""
        return self.server().children()[0]

    def left_files(self) -> list[str]:
        """The files in its temporary folder, after the seconds in which it deletes them."""
        end = time.monotonic() + 10
        while (found := self._files()) and time.monotonic() < end:
            time.sleep(LOOK_AGAIN_SECONDS)
        return found

    def _files(self) -> list[str]:
        return [str(path) for path in self.temporary.rglob("*") if path.is_file()]


def until(condition: Callable[[], bool], what: str, log: Path) -> float:
    """Waits; the seconds that it took. Raises UserError after PATIENCE_SECONDS."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > PATIENCE_SECONDS:
            raise UserError(f"waited in vain for {what}: {log.read_text()[-1000:]}")
        time.sleep(LOOK_AGAIN_SECONDS)
    return time.monotonic() - begun


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for everything that a run makes."""
    return tempfile.TemporaryDirectory(prefix="dream-o-faults-")
