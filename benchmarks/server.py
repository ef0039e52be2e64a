"""Runs the HTTP server in another process, as `script/serve` does."""

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

# Much longer than the setup of a small bundle, and long enough to load a large one.
PATIENCE_SECONDS = 1800
# The server answers slightly before it accepts the next request.
LOOK_AGAIN_SECONDS = 0.01


class Server:
    """A running server; `url` is its address."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process, self.url, self.log = process, url, log

    def predict(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Sends a prediction; returns the response and the seconds until its end.

        Raises:
            UserError: the request was refused or failed; contains the server's message.
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
            raise UserError(f"the server refused the request: {told}") from None
        seconds = time.perf_counter() - begun
        if answer["status"] != "succeeded":
            raise UserError(answer["error"])
        return answer, seconds

    def until_ready(self) -> None:
        """Waits until the server accepts requests.

        Raises:
            UserError: the server ended or its setup failed, with its last line; or the setup took
                too long.
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
                raise UserError(f"the server ended during setup: {lines[-1] if lines else ''}")
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
    """Starts a server on a free local port with these of the project's variables and no others.

    Other variables of this process would change the measurement without being reported.
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
