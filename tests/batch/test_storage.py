"""Output folders that fsspec opens: in memory, and S3 by a real server on this machine."""

import errno
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow.parquet
import pytest
from fsspec.implementations.local import LocalFileSystem
from moto.server import ThreadedMotoServer

from dream_o.batch.storage import Storage, open_address
from dream_o.errors import UserError
from tests.batch.conftest import numbered


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket; sets the environment variables for its server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("batches")
        yield "s3://batches"
    server.stop()


def test_a_batch_reads_from_and_writes_to_s3_and_resumes_there(tried, bucket):
    system = fsspec.filesystem("s3")
    requests = tried.requests(*numbered(3))
    system.put_file(requests, "batches/in/requests.jsonl")
    output = f"{bucket}/out"
    assert tried.run(f"{bucket}/in/requests.jsonl", output=output).skipped == 0
    names = ["a-0.webp", "a-1.webp", "a-2.webp"]
    others = ["contact-sheet.webp", "index.html", "results.parquet"]
    assert sorted(system.ls("batches/out")) == [f"batches/out/{each}" for each in names + others]
    with system.open("batches/out/results.parquet", "rb") as file:
        assert pyarrow.parquet.read_table(file).column("file").to_pylist() == names

    system.rm("batches/out/a-1.webp")
    tried.seen.__init__()
    assert tried.run(f"{bucket}/in/requests.jsonl", output=output).skipped == 2
    assert tried.prompts.count("hill 1") == 2
    assert len(tried.prompts) == 4


def test_an_upload_that_is_broken_off_leaves_no_object(bucket):
    storage = Storage(f"{bucket}/broken")

    def write_half():
        with storage.writing("a.webp") as file:
            file.write(b"half")
            raise InterruptedError

    with pytest.raises(UserError):
        write_half()
    assert list(storage.files()) == []


@pytest.mark.parametrize("place", ["memory://storage", "{folder}/storage"])
def test_files_are_written_read_listed_and_removed(place, tmp_path):
    storage = Storage(place.format(folder=tmp_path))
    assert list(storage.files()) == []
    assert storage.read("a") is None
    storage.write("a", b"one")
    storage.write("b/c", b"two")
    storage.write("b/c", b"three")
    assert storage.read("b/c", 1, 3) == b"hr"
    assert list(storage.files()) == ["a"]
    assert list(storage.files("b")) == ["b/c"]
    assert list(storage.folders()) == ["b"]
    storage.remove("a")
    storage.remove("a")
    storage.remove_folder("b")
    storage.remove_folder("b")
    assert list(storage.files()) == list(storage.folders()) == []


def test_on_other_file_systems_a_file_gets_its_name_when_it_is_complete(tmp_path, monkeypatch):
    storage = Storage(f"local://{tmp_path}/x")
    moved = []
    move = storage.system.mv

    def moving(source, target):
        moved.extend(each.rpartition("/")[2] for each in (source, target))
        move(source, target)

    monkeypatch.setattr(storage.system, "mv", moving)
    with storage.writing("a") as file:
        file.write(b"one")
        assert list(storage.files()) == []
    monkeypatch.undo()
    assert moved == ["a.unfinished", "a"]
    assert storage.read("a") == b"one"
    assert list(storage.files()) == ["a"]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    storage = Storage(str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"^the output cannot be written: "):
        storage.write("a", b"one")


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("https", "aiohttp")])
def test_the_error_of_a_scheme_names_its_missing_package(monkeypatch, scheme, package):
    def missing(*_):
        raise ImportError

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(
        UserError, match=rf"^{scheme}:// needs a package .*; run pip install {package}$"
    ):
        open_address(f"{scheme}://bucket/a")


@pytest.mark.parametrize("address", ["{folder}", "local://{folder}"])
@pytest.mark.parametrize("has_links", [True, False])
def test_if_several_threads_create_the_same_file_one_succeeds(
    tmp_path, monkeypatch, address, has_links
):
    def refuse(*_):
        raise OSError(errno.EPERM, "no links")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    many = 8
    # No thread writes before all of them have found that the file does not exist.
    together = threading.Barrier(many)
    monkeypatch.setattr(Storage, "read", lambda *_: together.wait(10) and None)
    monkeypatch.setattr(LocalFileSystem, "exists", lambda *_: together.wait(10) < 0)
    storage = Storage(address.format(folder=tmp_path))

    with ThreadPoolExecutor(many) as pool:
        contents = [str(number).encode() for number in range(many)]
        made = list(pool.map(lambda content: storage.create("lock", content), contents))
    assert sum(made) == 1
    assert (tmp_path / "lock").read_bytes() == contents[made.index(True)]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_two_names_of_one_file_are_recognised(tmp_path):
    storage = Storage(str(tmp_path))
    storage.write("Mug.webp", b"one")
    (tmp_path / "mug.webp").hardlink_to(tmp_path / "Mug.webp")  # as on a disk that ignores case
    assert storage.is_same("Mug.webp", "mug.webp")
    storage.write("mug.webp", b"two")
    assert not storage.is_same("Mug.webp", "mug.webp")
    assert not storage.is_same("mug.webp", "mug.png")
    assert Storage("memory://same").is_same("a.webp", "a.webp")
