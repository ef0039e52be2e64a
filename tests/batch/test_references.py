"""References of a batch: where they come from, and how they are prepared."""

import base64
import errno
import io
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from dream_o.batch import preparing, trying
from dream_o.batch.ledger import FAILED, Task
from dream_o.batch.preparing import get_ready
from dream_o.batch.references import as_files, resolve
from dream_o.batch.storage import Storage
from dream_o.batch.wire import ready_table, tasks_of
from dream_o.batch.worker import Job, Worker
from dream_o.errors import BundleError, InputError, SettingError
from dream_o.references import OFFLINE, prepare
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, load_predictor
from dream_o.service.cache import ByteBoundedCache
from tests.batch.stub import StubLoad
from tests.requests_table import encoded, picture


@pytest.fixture(scope="module")
def document():
    return openapi_document(type(load_predictor(DEFAULT)))


@pytest.fixture
def job(document, tmp_path):
    return Job(StubLoad(tmp_path), Storage(str(tmp_path)), document, False)


def task(**inputs):
    given = {"ref_task1": "ip", "ref_task2": "ip", "ref_res": 256, **inputs}
    return Task("a", "digest", given)


@pytest.mark.parametrize(
    ("value", "folder", "address"),
    [
        ("a.png", "s3://bucket/in", "s3://bucket/in/a.png"),
        ("gs://bucket/a.png", "/here", "gs://bucket/a.png"),
        ("https://example.com/a.png", "/here", "https://example.com/a.png"),
        ("data:image/png;base64,AA==", "/here", "data:image/png;base64,AA=="),
        ("{folder}/a.png", "/here", "{folder}/a.png"),
        ("file://{folder}/a.png", "/here", "{folder}/a.png"),
        ("a.png", "{folder}", "{folder}/a.png"),
    ],
)
def test_a_reference_is_a_path_beside_the_file_or_an_address(value, folder, address, tmp_path):
    (tmp_path / "a.png").write_bytes(b"png")
    value, folder, address = (each.format(folder=tmp_path) for each in (value, folder, address))
    assert resolve("ref_image1", value, folder) == address


def test_an_unknown_scheme_is_refused():
    with pytest.raises(InputError, match=r"^ref_image2: carrier-pigeon:// is unknown; give a path"):
        resolve("ref_image2", "carrier-pigeon://a.png", "/here")


def test_base64_without_the_start_of_a_data_url_is_refused():
    with pytest.raises(InputError, match=r"\.\.\.; a data URL begins with data:$") as caught:
        resolve("ref_image1", "iVBORw0KGgo" * 1000, "/here")
    assert len(str(caught.value)) < 300


def test_references_of_any_file_system_become_files(document):
    with fsspec.open("memory://references/a.png", "wb") as file:
        file.write(b"png")
    with as_files({"ref_image1": "memory://references/a.png"}, document) as opened:
        path = Path(opened["ref_image1"])
        assert path.read_bytes() == b"png"
    assert not path.exists()
    with (
        pytest.raises(
            InputError, match=r"^ref_image1: there is no file memory://references/b.png$"
        ),
        as_files({"ref_image1": "memory://references/b.png"}, document),
    ):
        pass


def test_a_download_that_fails_is_tried_once_more(document, monkeypatch):
    monkeypatch.setattr(trying, "PAUSES", (0.0,))
    answers = [503, 200, 503, 503, 404]

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answers.pop(0))
            self.end_headers()
            self.wfile.write(b"png")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        inputs = {"ref_image1": f"http://127.0.0.1:{server.server_port}/a.png"}
        with as_files(inputs, document) as opened:
            assert Path(opened["ref_image1"]).read_bytes() == b"png"
        for code in (503, 404):
            with (
                pytest.raises(InputError, match=f"the server answered {code}"),
                as_files(inputs, document),
            ):
                pass
        server.shutdown()
    assert answers == []


def test_references_are_prepared_ahead_and_sent_with_their_pixels(job, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    ready = get_ready(task(ref_image2=str(tmp_path / "a.png")), job, "offline", on_gpu=True)
    journal, (arrived,) = tasks_of(ready_table([ready], "journal"))
    assert journal == "journal"
    assert arrived.task == ready.task
    prepared = arrived.prepared["ref_image2"]
    alone = prepare(picture(), "ip", 256, "ref_image2", OFFLINE)
    assert (prepared.slot, prepared.task) == (2, "ip")
    assert prepared.after.tobytes() == alone.tobytes()


def test_a_reference_that_many_rows_share_is_fetched_and_prepared_once(job, tmp_path, monkeypatch):
    content = encoded(picture())
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(content)
    made = []
    monkeypatch.setattr(preparing, "prepare", lambda *given: made.append(1) or prepare(*given))
    monkeypatch.setattr(preparing, "_prepared", ByteBoundedCache(2**20))
    pixels = set()
    for name in ("a.png", "b.png", "a.png"):
        asked = task(ref_image1=str(tmp_path / name), ref_task1="style")
        pixels.add(get_ready(asked, job, "offline", False).prepared["ref_image1"].after.tobytes())
    assert (len(made), len(pixels)) == (1, 1)
    get_ready(task(ref_image1=str(tmp_path / "a.png"), ref_task1="ip"), job, "offline", False)
    assert len(made) == 2
    assert preparing._prepared.bytes <= 2**20


def test_fetching_a_file_is_tried_again_if_its_file_system_fails(document, monkeypatch):
    monkeypatch.setattr(trying, "PAUSES", (0.0, 0.0))
    with fsspec.open("memory://references/c.png", "wb") as file:
        file.write(b"png")
    answers = [TimeoutError(), RuntimeError("503 Slow Down")]
    read = MemoryFileSystem.cat_file

    def busy(system, *given, **options):
        if answers:
            raise answers.pop()
        return read(system, *given, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", busy)
    with as_files({"ref_image1": "memory://references/c.png"}, document) as opened:
        assert Path(opened["ref_image1"]).read_bytes() == b"png"
    answers += [RuntimeError("503 Slow Down")] * 3
    with (
        pytest.raises(InputError, match=r"^ref_image1: the download failed: RuntimeError$"),
        as_files({"ref_image1": "memory://references/c.png"}, document),
    ):
        pass


def test_a_gpu_prepares_with_networks_itself_and_gets_the_file(job, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    networks = replace(OFFLINE, name="networks")
    monkeypatch.setattr(preparing, "cpu_backend", lambda _: networks)
    asked = task(ref_image1=str(tmp_path / "a.png"))
    ready = get_ready(asked, job, "networks", on_gpu=True)
    assert ready.prepared == {}
    content = base64.b64decode(ready.task.inputs["ref_image1"].partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == picture().size
    assert list(get_ready(asked, job, "networks", on_gpu=False).prepared) == ["ref_image1"]


def test_a_reference_that_cannot_be_used_is_told_to_the_actor(job, tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    ready = get_ready(task(ref_image1=str(tmp_path / "a.png")), job, "offline", on_gpu=False)
    assert ready.error.startswith("ref_image1: this is not an image")
    assert Worker(job).make(ready).is_final


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "no space"), "the references cannot be prepared: the disk is full"),
        (MemoryError(), "the references cannot be prepared: MemoryError"),
        (SettingError("DREAM_O_REFERENCES", "x", "is wrong"), "DREAM_O_REFERENCES='x' is wrong"),
        (BundleError("a network is missing"), "a network is missing"),
    ],
)
def test_references_that_one_machine_cannot_prepare_are_tried_again(
    job, tmp_path, monkeypatch, error, told
):
    def refuse(*_):
        raise error

    monkeypatch.setattr(preparing, "prepare", refuse)
    monkeypatch.setattr(preparing, "_prepared", ByteBoundedCache(2**20))
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    ready = get_ready(task(ref_image1=str(tmp_path / "a.png")), job, "offline", on_gpu=False)
    _, (arrived,) = tasks_of(ready_table([ready], "journal"))
    outcome = Worker(job).make(arrived)
    assert (outcome.status, outcome.error, outcome.is_final) == (FAILED, told, False)
