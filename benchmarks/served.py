"""A fast local web server: files by sendfile, ranges, and a rate limit for each connection.

`python -m benchmarks.served FOLDER RATE` prints its port and serves until its input ends.
"""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import ROOT

BLOCK = 1 << 20
RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d*)", re.IGNORECASE)


@contextmanager
def served(folder: Path, rate: float = 0) -> Iterator[str]:
    """Serves a folder from another process; yields its URL.

    Args:
        folder: the folder.
        rate: the bytes a second of each connection; 0 for no limit.
    """
    command = [sys.executable, "-m", "benchmarks.served", str(folder), str(rate)]
    process = subprocess.Popen(  # noqa: S603 - this module
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def main(folder: Path, rate: float) -> None:
    """Serves until standard input ends."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_accept, args=(listening, folder, rate), daemon=True).start()
    print(listening.getsockname()[1], flush=True)
    sys.stdin.read()


def _accept(listening: socket.socket, folder: Path, rate: float) -> None:
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=_serve, args=(connection, folder, rate), daemon=True).start()


def _serve(connection: socket.socket, folder: Path, rate: float) -> None:
    held = b""
    with connection, suppress(OSError):
        while True:
            while b"\r\n\r\n" not in held:
                received = connection.recv(1 << 16)
                if not received:
                    return
                held += received
            request, _, held = held.partition(b"\r\n\r\n")
            _answer(connection, folder, request, rate)


def _answer(connection: socket.socket, folder: Path, request: bytes, rate: float) -> None:
    method, path, _ = request.split(b" ", 2)
    file = folder / path.decode().lstrip("/")
    if not file.is_file():
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return
    size = file.stat().st_size
    asked = RANGE.search(request)
    start = int(asked[1]) if asked else 0
    end = int(asked[2]) + 1 if asked and asked[2] else size
    head = [f"HTTP/1.1 {'206 Partial Content' if asked else '200 OK'}"]
    head += [f"Content-Length: {end - start}", f'ETag: "{size}"', "Accept-Ranges: bytes"]
    if asked:
        head.append(f"Content-Range: bytes {start}-{end - 1}/{size}")
    connection.sendall("\r\n".join([*head, "", ""]).encode())
    if method == b"HEAD":
        return
    begun, sent = time.monotonic(), 0
    with file.open("rb") as source:
        while start < end:
            count = os.sendfile(
                connection.fileno(), source.fileno(), start, min(BLOCK, end - start)
            )
            start, sent = start + count, sent + count
            if rate:
                time.sleep(max(0.0, begun + sent / rate - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
