"""References that a request names by their address."""

import errno
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cog
import pytest

from dream_o.errors import UserError
from dream_o.server import downloads


@pytest.fixture
def sender() -> Iterator[str]:
    """Sends `/small`, `/drip` (a byte each 50 ms) and `/silent` (nothing, not even a head)."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/silent":
                ended.wait(10)
                return
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            while not ended.is_set():
                try:
                    self.wfile.write(b"x" * (1000 if self.path == "/small" else 1))
                except OSError:
                    return
                if self.path == "/small":
                    return
                time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    ended.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(cog.URLPath, "convert", cog.URLPath.convert)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    downloads.bound_downloads()


def download(address: str) -> cog.Path:
    return cog.Path.validate(address).convert()


def test_a_file_arrives_whole_and_cog_can_delete_it(sender, tmp_path) -> None:
    reference = cog.Path.validate(f"{sender}/small")
    path = reference.convert()
    assert path.read_bytes() == b"x" * 1000
    assert reference.convert() == path
    reference.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["drip", "silent"])
def test_a_sender_that_drips_is_left_after_a_time(sender, path, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(downloads, "DOWNLOAD_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"did not arrive within 0\.3 seconds"):
        download(f"{sender}/{path}")
    for thread in threading.enumerate():
        if isinstance(thread, downloads._Download):
            thread.join(10)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_too_large_is_refused_and_deleted(sender, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 999)
    with pytest.raises(UserError, match="larger than"):
        download(f"{sender}/small")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_without_a_number(sender, monkeypatch, tmp_path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    make = tempfile.NamedTemporaryFile

    def small(*arguments: object, **options: object) -> object:
        file = make(*arguments, **options)
        file.write = full
        return file

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", small)
    with pytest.raises(UserError, match=r"^a reference cannot be saved: the disk is full$"):
        download(f"{sender}/small")
    assert list(tmp_path.iterdir()) == []


def test_the_cog_server_downloads_within_the_bounds(server, hooks) -> None:
    hooks.files["/large.png"] = bytes(downloads.MAX_DOWNLOAD_BYTES + 1)
    try:
        failed = server.predict(ref_image1=f"{hooks.url}/large.png")
    finally:
        hooks.files.clear()
    assert failed["status"] == "failed"
    assert "a reference is larger than 100 MB; send a smaller file" in failed["error"]
    assert "Traceback" not in failed["logs"] + failed["error"]
