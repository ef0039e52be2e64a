"""The HTTP server in a process of its own, as `script/serve` starts it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from dream_o.errors import UserError

# Far beyond the setup of a small bundle; a large one is read from disk in that time too.
PATIENCE_SECONDS = 1800
# The server answers a moment before it takes the next request.
LOOK_AGAIN_SECONDS = 0.01


class Server:
    """A running server; `url` is its address."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def predict(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """A prediction and the seconds from sending it to having read the answer.

        Raises:
            UserError: the server refuses it, or it failed, with what the server says.
        """
        self.until_ready()
        content = json.dumps({"input": inputs}).encode()
        begun = time.perf_counter()
        try:
            answer = self._call("/predictions", content)
        except urllib.error.HTTPError as refusal:
            told = "; ".join(
                f"{each['loc'][-1]}: {each['msg']}" for each in json.load(refusal)["detail"]
            )
            raise UserError(f"the server refuses the request: {told}") from None
        seconds = time.perf_counter() - begun
        if answer["status"] != "succeeded":
            raise UserError(answer["error"])
        return answer, seconds

    def until_ready(self) -> None:
        """Waits until the server takes a request.

        Raises:
            UserError: it ended or its setup failed, with its last word; or it takes too long.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                status = self._call("/health-check")["status"]
            except OSError:
                status = "STARTING"
            if status == "READY":
                return
            if status == "SETUP_FAILED" or self.process.poll() is not None:
                lines = self.log.read_text().strip().splitlines()
                raise UserError(f"the server ended in its setup: {lines[-1] if lines else ''}")
            time.sleep(LOOK_AGAIN_SECONDS)
        raise UserError(f"the server is not ready after {PATIENCE_SECONDS} seconds")

    def _call(self, path: str, content: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - always http
            self.url + path, content, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:  # noqa: S310
            body: dict[str, Any] = json.load(response)
            return body


@contextmanager
def serving(environment: Mapping[str, str]) -> Iterator[Server]:
    """A server on a free port of the loopback, with these variables and no others of the project.

    What else the process has of them would be measured under another name.
    """
    own = {
        name: held
        for name, held in os.environ.items()
        if name != "COG_WEIGHTS" and not name.startswith("DREAM_O_")
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603 - this project's own module
                [sys.executable, "-m", "dream_o.server.serve", "--port", str(port)],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env=own | {"PYTHONPATH": str(ROOT), "TMPDIR": folder} | dict(environment),
            )
        try:
            server = Server(process, f"http://127.0.0.1:{port}", log)
            server.until_ready()
            yield server
        finally:
            process.kill()
            process.wait()
