"""A local server with the part of the hub's file API that downloads use, and with faults."""

import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


@dataclass
class Hub:
    """The files and the behaviour of the server.

    Attributes:
        files: contents by `owner/repository/path`.
        refusal: a status and an error code of the hub, the answer to every request if set.
        token: if set, requests without it get 401.
        cut: the number of bytes of a body after which a connection ends, and how often it does.
        wrong: paths whose body has one changed byte.
        requests: the number of requests by method and path.
        ranges: the Range headers of the requests.
        without_ranges: sends whole files even if a range is requested.
        refused_paths: statuses by requested path, as of URLs that have expired.
        delay: seconds before each body.
        started, hold: after its first bytes, a body sets `started` and waits for `hold`; if `held`
            names a file, only its body does.
    """

    files: dict[str, bytes]
    refusal: tuple[int, str] | None = None
    token: str | None = None
    cut: list[int] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    requests: Counter = field(default_factory=Counter)
    ranges: list[str] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event | None = None
    held: str | None = None
    refused_paths: dict[str, int] = field(default_factory=dict)
    delay: float = 0.0
    without_ranges: bool = False
    url: str = ""


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    """The request handler of a hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Writes nothing to stderr."""

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, with_body: bool) -> None:
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, path = rest.partition("/")
            name = f"{repository}/{path}"
            hub.requests[self.command, name] += 1
            if self.path.lstrip("/") in hub.refused_paths:
                return self.refuse(hub.refused_paths[self.path.lstrip("/")], "")
            if hub.refusal:
                return self.refuse(*hub.refusal)
            if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                return self.refuse(401, "GatedRepo")
            if not any(held.startswith(f"{repository}/") for held in hub.files):
                return self.refuse(404, "RepoNotFound")
            if revision not in ("main", COMMIT):
                return self.refuse(404, "RevisionNotFound")
            if name not in hub.files:
                return self.refuse(404, "EntryNotFound")
            content = hub.files[name]
            large = path.endswith(".safetensors")
            # As on the hub: the SHA-256 of files in LFS, git's SHA-1 of all others.
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            digest = hashlib.sha256(content).hexdigest() if large else git
            start, end, partial = 0, len(content), False
            if with_body and (asked := self.headers.get("Range")):
                hub.ranges.append(asked)
                if not hub.without_ranges:
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    start, end, partial = int(first), int(last) + 1 if last else end, True
            body = content[start:end]
            if name in hub.wrong:
                body = bytes([body[0] ^ 1]) + body[1:]
            self.send_response(206 if partial else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{digest}"')
            if large:
                self.send_header("X-Linked-Etag", f'"{digest}"')
                self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Repo-Commit", COMMIT)
            if partial:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.end_headers()
            if with_body:
                self.send(name, body)
            return None

        def send(self, name: str, body: bytes) -> None:
            time.sleep(hub.delay)
            if hub.hold is not None and name in (hub.held or name):
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                hub.started.set()
                hub.hold.wait(30)
                body = body[len(body) // 2 :]
            if hub.cut and len(body) > hub.cut[0]:
                self.wfile.write(body[: hub.cut.pop(0)])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

    return Handler


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Runs the hub on a free local port and sets its `url`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        if hub.hold is not None:
            hub.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
