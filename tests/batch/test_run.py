"""A batch in one process: its files and its results."""

import errno
import html

import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from dream_o.batch import gallery, ledger, trying, worker
from dream_o.batch.in_process import InProcess
from dream_o.batch.storage import Storage, StorageError
from dream_o.batch.worker import DeviceLostError
from dream_o.errors import UserError
from dream_o.images.writing import read_metadata
from dream_o.service.generator import DreamO
from tests.batch.conftest import numbered
from tests.batch.stub import StubLoad

COLUMNS = ["name", "file", "seed", "seconds", "status", "error", "digest"]


def test_images_have_their_metadata_and_the_results_a_row_each(tried):
    requests = tried.requests(*numbered(2), {"name": "b", "prompt": "x", "seed": 2**64 - 1})
    summary = tried.run(requests)
    assert (summary.rows, summary.skipped, summary.failed, summary.bad) == (3, 0, 0, 0)
    assert read_metadata(tried.output / "a-1.webp")["prompt"] == "hill 1"
    table = pyarrow.parquet.read_table(tried.output / "results.parquet")
    assert table.column_names == COLUMNS
    assert table.column("name").to_pylist() == ["a-0", "a-1", "b"]
    assert table.column("file").to_pylist() == ["a-0.webp", "a-1.webp", "b.webp"]
    assert table.column("seed").to_pylist() == [0, 1, 2**64 - 1]
    assert set(table.column("status").to_pylist()) == {"succeeded"}
    assert table.column("error").to_pylist() == [None] * 3


def test_nothing_but_the_results_is_left(tried):
    tried.run(tried.requests(*numbered(1)))
    assert sorted(path.name for path in tried.output.iterdir()) == [
        "a-0.webp",
        "contact-sheet.webp",
        "index.html",
        "results.parquet",
    ]


def test_a_failing_request_is_tried_once_more_and_then_recorded(tried):
    requests = tried.requests(
        {"name": "once", "prompt": "first: fail"},
        {"name": "ever", "prompt": "always: fail"},
        {"name": "refused", "prompt": "always: refuse"},
        *numbered(1),
    )
    summary = tried.run(requests)
    assert summary.failed == 2
    results = tried.results()
    assert results["once"]["status"] == "succeeded"
    assert results["ever"]["error"] == "RuntimeError: the device said no"
    assert results["refused"]["error"] == "ref_image1: no face found"
    assert (results["ever"]["status"], results["ever"]["file"]) == ("failed", None)
    assert [tried.prompts.count(each) for each in ("first: fail", "always: fail")] == [2, 2]
    assert tried.prompts.count("always: refuse") == 1
    assert tried.images() == ["a-0.webp", "once.webp"]


def test_a_device_that_is_lost_ends_the_batch_and_the_next_run_goes_on(tried):
    last = {"name": "z", "prompt": "first: lose the device", "height": 768}
    requests = tried.requests(*numbered(2), last)
    with pytest.raises(
        DeviceLostError, match=r"^the device failed at z: RuntimeError: CUDA error$"
    ):
        tried.run(requests)
    assert tried.images() == ["a-0.webp", "a-1.webp"]
    assert tried.run(requests).skipped == 2
    assert tried.images() == ["a-0.webp", "a-1.webp", "z.webp"]


def test_a_failing_request_prints_no_traceback(tried, caplog):
    tried.run(tried.requests({"name": "a", "prompt": "always: fail"}))
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []
    assert tried.results()["a"]["error"] == "RuntimeError: the device said no"


def test_missing_outcomes_of_an_engine_are_an_error(tried):
    requests = tried.requests(*numbered(3))

    class Forgetful(InProcess):
        def make(self, tasks, run):
            return super().make(list(tasks)[:2], run)

    with pytest.raises(UserError, match=r"^1 images were not made"):
        tried.run(requests, Forgetful)
    assert tried.run(requests).skipped == 2
    assert len(tried.images()) == 3


def test_a_model_that_cannot_be_loaded_is_one_error(tried):
    tried.load = StubLoad(tried.folder, error="the bundle is damaged")
    with pytest.raises(UserError, match=r"^the bundle is damaged$"):
        tried.run(tried.requests(*numbered(2)))


def test_above_ten_thousand_requests_images_are_in_subfolders(tried, monkeypatch):
    monkeypatch.setattr("dream_o.batch.run.MOST_IN_A_FOLDER", 3)
    tried.run(tried.requests(*numbered(3)))
    assert all("/" not in image for image in tried.images())
    tried.run(tried.requests(*numbered(6)))
    folders = [image.rpartition("/")[0] for image in tried.images()]
    assert folders.count("") == 3
    assert all(len(folder) == 2 for folder in folders if folder)
    assert len(tried.prompts) == 6
    assert tried.run(tried.requests(*numbered(6))).skipped == 6


def test_requests_of_a_shape_and_a_prompt_come_together(tried):
    rows = [
        {"name": f"{size}-{prompt}-{seed}", "prompt": prompt, "width": size, "seed": seed}
        for seed in (1, 2)
        for size in (768, 1024)
        for prompt in ("hill", "sea")
    ]
    tried.run(tried.requests(*rows))
    assert tried.prompts == ["hill", "hill", "sea", "sea"] * 2


def test_prompts_and_references_are_encoded_once(tried, fused, monkeypatch):
    monkeypatch.setenv("DREAM_O_WEIGHTS", str(fused("v1.1", True)))
    monkeypatch.setattr(worker.LoadedDreamO, "__init__", counted := Counted())
    Image.new("RGB", (64, 64), "red").save(tried.folder / "red.png")
    rows = [
        {"name": f"{prompt}-{seed}", "prompt": prompt, "seed": seed, "ref_image1": "red.png"}
        for seed in (1, 2)
        for prompt in ("hill", "sea")
    ]
    tried.load = None
    tried.run(tried.requests(*rows))
    assert counted.prompts == ["hill", "sea"]
    assert counted.references == 1


class Counted:
    """Replaces the loaded bundle by one that draws grey images and counts what it encodes."""

    def __init__(self):
        self.prompts = []
        self.references = 0

    def __get__(self, loaded, _):
        return lambda settings, threads: self.load(loaded, settings)

    def load(self, loaded, settings):
        dream_o = DreamO.load(settings)
        pipeline = dream_o.pipeline
        prompt, reference = pipeline.encode_prompt, pipeline.encode_reference

        def encode_prompt(text):
            self.prompts.append(text)
            return prompt(text)

        def encode_reference(image):
            self.references += 1
            return reference(image)

        pipeline.encode_prompt, pipeline.encode_reference = encode_prompt, encode_reference
        whole = dream_o._call

        def short(request, *rest):
            object.__setattr__(request, "width", 64)
            object.__setattr__(request, "height", 64)
            object.__setattr__(request, "num_steps", 1)
            return whole(request, *rest)

        dream_o._call = short
        loaded.generate = dream_o.generate
        loaded.is_healthy = dream_o.thread.is_healthy


def test_the_sheet_and_the_pages_show_images_and_failures(tried, monkeypatch):
    monkeypatch.setattr(gallery, "ON_PAGE", 11)
    requests = tried.requests(*numbered(11), {"name": "z", "prompt": "always: fail"})
    tried.run(requests)
    assert Image.open(tried.output / "contact-sheet.webp").width > 1000
    first = (tried.output / "index.html").read_text()
    second = (tried.output / "index-2.html").read_text()
    assert first.count("<img ") == 11
    assert 'src="a-10.webp"' in first
    assert 'href="index-2.html"' in first
    assert "<img " not in second
    assert html.escape("RuntimeError: the device said no") in second


def test_an_image_that_cannot_be_written_fails_its_request(tried, monkeypatch):
    monkeypatch.setattr(trying, "PAUSES", (0.0,))
    upload = MemoryFileSystem.put_file
    refused = []

    def busy(system, source, target, **options):
        if target.endswith("a-1.webp") or not refused:
            refused.append(target)
            raise TimeoutError
        upload(system, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", busy)
    output = f"memory://{tried.folder.name}"
    assert tried.run(tried.requests(*numbered(3)), output=output).failed == 1
    failed = [each for each in tried.seen.outcomes if each.is_final and each.status == "failed"]
    assert [(each.name, each.error) for each in failed] == [
        ("a-1", "the output cannot be written: TimeoutError")
    ]
    assert len([each for each in refused if each.endswith("a-1.webp")]) == 4
    assert len(refused) == 5


def test_results_that_cannot_be_written_are_one_error(tried, monkeypatch):
    monkeypatch.setattr(trying, "PAUSES", (0.0,))

    def refuse(*_, **options):
        raise ConnectionError

    class Losing(InProcess):
        def make(self, tasks, run):
            monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
            return super().make(tasks, run)

    with pytest.raises(UserError, match=r"^the output cannot be written: ConnectionError$"):
        tried.run(tried.requests(*numbered(1)), Losing, output=f"memory://{tried.folder.name}")


def test_a_ledger_on_a_full_disk_is_one_error(tried, monkeypatch):
    monkeypatch.setattr(ledger, "TABLES", f"PRAGMA max_page_count=8; {ledger.TABLES}")
    with pytest.raises(
        UserError, match=r"^the temporary folder cannot be written: database or disk"
    ):
        tried.run(tried.requests(*numbered(100)))
    assert tried.images() == []


def test_an_image_that_the_contact_sheet_cannot_read_is_an_error(tried, monkeypatch):
    requests = tried.requests(*numbered(1))
    tried.run(requests)
    read = Storage.read

    def refuse(storage, path, *given):
        if path.endswith(".webp"):
            raise StorageError("the output cannot be read: TimeoutError")
        return read(storage, path, *given)

    monkeypatch.setattr(Storage, "read", refuse)
    with pytest.raises(StorageError, match="TimeoutError"):
        tried.run(requests)


def test_results_that_cannot_be_read_are_one_error(tried, monkeypatch):
    requests = tried.requests(*numbered(1))
    tried.run(requests)

    def refuse(*_, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", refuse)
    told = r"^results.parquet in the output folder cannot be read: Input/output error; run"
    with pytest.raises(UserError, match=told):
        tried.run(requests)


def test_a_folder_of_another_program_is_refused(tried):
    tried.output.mkdir()
    table = pyarrow.table({"x": [1]})
    pyarrow.parquet.write_table(table, tried.output / "results.parquet")
    with pytest.raises(UserError, match=r"^results.parquet in the output folder is not of this"):
        tried.run(tried.requests(*numbered(1)))
    assert pyarrow.parquet.read_table(tried.output / "results.parquet") == table


def test_two_batches_do_not_write_into_one_folder(tried):
    requests = tried.requests(*numbered(1))

    class Second(InProcess):
        def make(self, tasks, run):
            with pytest.raises(UserError, match=r"^--output: another batch writes into this"):
                tried.run(requests)
            return super().make(tasks, run)

    assert tried.run(requests, Second).failed == 0
