"""A Cog server in a process of its own, and what a caller does with it."""

import base64
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from dream_o.paths import EMBEDDED_BUNDLE
from tests import ROOT
from tests.requests_table import SMALL

JSON = {"Content-Type": "application/json"}
# Far beyond any of these requests: a test fails here where it would hang.
PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Answer:
    """A response: its status, and its JSON or None."""

    status: int
    body: Any


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; a failure that names `what` when there is none."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def data_url(content: bytes) -> str:
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()


def decoded(url: str) -> tuple[str, bytes]:
    """MIME type and content of a data URL."""
    head, _, content = url.partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(content)


def environment(temporary: Path, bundle: Path = EMBEDDED_BUNDLE) -> dict[str, str]:
    """What a process of the tests runs in: a bundle on the CPU, whatever else there is."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(temporary),
        "DREAM_O_WEIGHTS": str(bundle),
        "DREAM_O_DEVICE": "cpu",
        "DREAM_O_REFERENCES": "offline",
    }


class CogServer:
    """`script/serve` without its set-up, on a free port, with temporary folders of its own.

    Attributes:
        temporary: TMPDIR of the server.
        log: what the server wrote on standard error.
    """

    def __init__(self, folder: Path, *arguments: str, environ: Mapping[str, str] = {}) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dream_o.server.serve"),
                    *("--port", str(self.port), *arguments),
                ],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=environment(self.temporary) | environ,
            )

    def __enter__(self) -> "CogServer":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()

    def ready(self) -> "CogServer":
        def status() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                found = self.call("GET", "/health-check").body["status"]
            except OSError:
                return False
            assert found != "SETUP_FAILED", self.log.read_text()
            return bool(found == "READY")

        until(status, "the server to be ready")
        return self

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] = {},
    ) -> Answer:
        """A request with JSON in and out."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, content, {**JSON, **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return Answer(status, json.loads(text) if text else None)

    def predict(self, **inputs: Any) -> Any:
        """A finished prediction of a small image; bytes among the inputs are uploaded."""
        self.idle()  # the server answers a moment before it takes the next request
        answer = self.call("POST", "/predictions", {"input": small(inputs)})
        assert answer.status == 200, answer
        return answer.body

    def start(self, path: str | None = None, **inputs: Any) -> str:
        """Starts a long prediction; the path that its state is PUT to and read from."""
        self.idle()
        path = path or f"/predictions/{uuid.uuid4().hex}"
        answer = self.call("PUT", path, self.long(inputs), {"Prefer": "respond-async"})
        assert answer.status == 202, answer
        return path

    @staticmethod
    def long(inputs: Mapping[str, Any] = {}) -> dict[str, Any]:
        """A request that leaves time to look at it: most steps, largest image, two passes."""
        most = {"num_steps": 30, "width": 1024, "height": 1024, "true_cfg": 2.0, "cfg_end_step": 30}
        return {"input": small({**most, **inputs})}

    def state(self, path: str) -> Any:
        """A running prediction's state: PUT is idempotent."""
        return self.call("PUT", path, self.long()).body

    def idle(self) -> None:
        """Waits for the last prediction to end."""

        def ready() -> bool:
            return bool(self.call("GET", "/health-check").body["status"] == "READY")

        until(ready, "the prediction to end")

    def temporary_files(self) -> list[Path]:
        """Files in the temporary folder; torch makes an empty folder there."""
        return [path for path in self.temporary.rglob("*") if not path.is_dir()]

    def steps_logged(self, path: str, until: datetime) -> int:
        """Steps of the prediction that the server had logged by a moment."""
        name = path.rpartition("/")[2]
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if name in line]
        return max(
            steps_done(line["fields"]["message"])
            for line in lines
            if datetime.fromisoformat(line["timestamp"]) <= until
        )

    def worker(self) -> int:
        """The process id of the predictor's process."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker.pid

    def peak_kilobytes(self, during: Callable[[], Any]) -> int:
        """By how much the predictor's process grew at most while `during` ran (Linux)."""
        worker = Path("/proc", str(self.worker()))
        before = self.resident_kilobytes()
        (worker / "clear_refs").write_text("5")  # resets the peak, proc(5)
        during()
        peak = re.search(r"VmHWM:\s+(\d+)", (worker / "status").read_text())
        assert peak is not None
        return int(peak[1]) - before

    def resident_kilobytes(self) -> int:
        """Memory of the predictor's process."""
        return psutil.Process(self.worker()).memory_info().rss // 1024


def small(inputs: Mapping[str, Any]) -> dict[str, Any]:
    prepared = {
        name: data_url(value) if isinstance(value, bytes) else value
        for name, value in inputs.items()
    }
    return {"prompt": "a lighthouse at dusk", **SMALL, **prepared}


def steps_done(logs: str) -> int:
    """Steps that the progress bar in the logs has counted."""
    counts = [part.partition("/")[0] for part in logs.split("| ") if "/30 [" in part[:8]]
    return max(map(int, counts), default=0)


@dataclass
class Received:
    """A request that a Receiver got."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes


@dataclass
class Receiver:
    """The other side, on the loopback: takes webhooks (POST) and uploads (PUT), gives `files` and
    `redirects` by path (GET)."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    redirects: Mapping[str, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> "Receiver":
        files, redirects, received = self.files, self.redirects, self.received

        class Handler(BaseHTTPRequestHandler):
            def take(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                received.append(Received(self.command, self.path, headers, content))
                self.answer(200, b"")

            def do_GET(self) -> None:
                if self.path in redirects:
                    self.answer(302, b"", Location=redirects[self.path])
                else:
                    self.answer(200 if self.path in files else 404, files.get(self.path, b""))

            def answer(self, status: int, content: bytes, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(content)

            do_POST = do_PUT = take

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def events(self, path: str) -> list[Any]:
        return [json.loads(each.content) for each in self.received if each.path == path]
