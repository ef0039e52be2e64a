import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from dream_o.locked_folders import lock_folder
from dream_o.server import worker_files as worker
from dream_o.service.whole_numbers import settle_whole_numbers
from tests import ROOT
from tests.server.client import until


@pytest.fixture
def in_the_server(monkeypatch):
    monkeypatch.setattr(worker, "coglet", SimpleNamespace(server=SimpleNamespace(active=True)))


@pytest.fixture
def output(tmp_path):
    path = tmp_path / "image.webp"
    path.write_bytes(b"an image")
    return path


def test_outside_the_server_an_output_stays_after_it_was_read(output):
    threads = threading.active_count()
    assert worker.remove_when_read(output) == output
    assert output.read_bytes() == b"an image"
    assert threading.active_count() == threads
    assert output.exists()


def test_in_the_server_an_output_goes_once_it_was_read(in_the_server, output):
    assert worker.remove_when_read(output) == output
    assert output.exists()
    with output.open("rb") as file:
        assert file.read(3) == b"an "
        until(lambda: not output.exists(), "the output to go")
        assert file.read() == b"image"


def test_an_output_that_nobody_reads_goes_too(in_the_server, output, monkeypatch):
    monkeypatch.setattr(worker, "OUTPUT_SECONDS", 0.1)
    worker.remove_when_read(output)
    assert until(lambda: not output.exists(), "the output to go")


def test_an_output_that_was_moved_is_left_alone(in_the_server, output):
    before = set(threading.enumerate())
    worker.remove_when_read(output)
    moved = output.rename(output.with_name("moved.webp"))
    (watch,) = set(threading.enumerate()) - before or {None}
    if watch:
        watch.join()
    assert moved.read_bytes() == b"an image"


def test_what_failed_requests_left_goes_when_the_next_prediction_begins(
    in_the_server, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, upload, output = (tmp_path / name for name in ("left.png", "upload.png", "out.webp"))
    inside = tmp_path / "folder" / "kept"
    inside.parent.mkdir()
    for path in (left, upload, output, inside):
        path.write_bytes(b"x")
    worker.remove_when_read(output)
    with worker.prediction(upload, None, "a string"):
        assert not left.exists()
        assert upload.exists()
        assert output.exists()
        assert inside.exists()


def test_only_old_files_go_while_the_worker_is_idle(tmp_path):
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    old.write_bytes(b"x")
    fresh.write_bytes(b"x")
    os.utime(old, (0, 0))
    worker.sweep(tmp_path, older_than=60)
    assert not old.exists()
    assert fresh.exists()


def test_a_folder_that_a_cleaner_removed_is_made_again(in_the_server, tmp_path, monkeypatch):
    folder = tmp_path / "dream-o-worker-own"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with worker.prediction():
        os.close(tempfile.mkstemp()[0])
    assert folder.is_dir()
    assert lock_folder(folder) is None  # other processes see that it is in use


def test_an_upload_waits_until_its_requests_other_file_is_there(tmp_path):
    upload = tmp_path / "upload.png"
    upload.write_bytes(b"x")
    two_minutes_ago = time.time() - 120
    os.utime(upload, (two_minutes_ago, two_minutes_ago))
    worker.sweep(tmp_path, older_than=worker.UPLOAD_SECONDS)
    assert upload.exists()


def test_a_worker_writes_no_file_larger_than_the_limit(tmp_path):
    code = (
        "from types import SimpleNamespace as N; from dream_o.server import worker_files as w;"
        "w.coglet = N(server=N(active=True)); w.MAX_FILE_BYTES = 1000; w.limit_file_size();"
        f"file = open({str(tmp_path / 'large')!r}, 'wb'); file.write(bytes(2000)); file.close()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert (tmp_path / "large").stat().st_size == 1000


def test_a_whole_number_with_a_decimal_point_becomes_an_integer():
    @dataclass(frozen=True)
    class Size:
        width: int
        seed: int | None
        scale: float

    size = Size(768.0, 3.0, 2.0)
    settle_whole_numbers(size)
    assert [type(value) for value in (size.width, size.seed, size.scale)] == [int, int, float]
    odd = Size(768.5, None, 2.0)
    settle_whole_numbers(odd)
    assert odd == Size(768.5, None, 2.0)
