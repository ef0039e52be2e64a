"""A batch in one process: its files, its results, and the same command again."""

import errno
import html
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from dream_o.batch import gallery, run, trying, worker
from dream_o.batch.command import main
from dream_o.batch.here import Here
from dream_o.batch.results import Journal
from dream_o.batch.storage import Storage
from dream_o.batch.worker import DeviceLostError
from dream_o.errors import UserError
from dream_o.images.writing import read_metadata
from dream_o.service.generator import DreamO
from tests import ROOT
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


def test_the_same_command_again_makes_nothing(tried):
    requests = tried.requests(*numbered(3))
    tried.run(requests)
    before = {path.name: path.read_bytes() for path in tried.output.iterdir()}
    summary = tried.run(requests)
    assert (summary.rows, summary.skipped) == (3, 3)
    assert len(tried.prompts) == 3
    assert {path.name: path.read_bytes() for path in tried.output.iterdir()} == before


def test_what_is_missing_changed_or_new_is_made_and_nothing_else(tried):
    tried.run(tried.requests(*numbered(4)))
    (tried.output / "a-1.webp").unlink()
    rows = numbered(5)
    rows[2]["prompt"] = "another hill"
    tried.run(tried.requests(*rows))
    assert sorted(tried.prompts[4:]) == ["another hill", "hill 1", "hill 4"]
    assert read_metadata(tried.output / "a-2.webp")["prompt"] == "another hill"
    assert [row["name"] for row in tried.results().values()] == [row["name"] for row in rows]


def test_an_image_in_another_format_replaces_the_earlier_one(tried):
    tried.run(tried.requests(*numbered(2)))
    rows = numbered(2)
    rows[0]["output_format"] = "png"
    tried.run(tried.requests(*rows))
    assert tried.images() == ["a-0.png", "a-1.webp"]


def test_results_of_requests_that_left_the_file_are_kept(tried):
    tried.run(tried.requests(*numbered(2)))
    tried.run(tried.requests({"name": "b", "prompt": "x"}))
    assert list(tried.results()) == ["b", "a-0", "a-1"]


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


def test_failed_requests_are_made_by_the_same_command_again(tried):
    requests = tried.requests({"name": "a", "prompt": "always: fail"}, *numbered(1))
    assert tried.run(requests).failed == 1
    summary = tried.run(requests)
    assert (summary.skipped, summary.failed) == (1, 1)
    assert tried.prompts.count("hill 0") == 1


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


def test_an_image_whose_outcome_did_not_come_back_is_not_made_again(tried):
    requests = tried.requests(*numbered(3))

    class Interrupted(Here):
        def make(self, tasks, run):
            yield next(made := super().make(tasks, run))
            next(made)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried.run(requests, Interrupted)
    assert len(tried.results()) == 2
    assert tried.run(requests).skipped == 2
    assert len(tried.prompts) == 3


def test_an_image_that_was_begun_and_not_recorded_is_not_the_one_of_the_results(tried):
    """Its file may be the new image, although the results have the request before the change."""
    tried.run(tried.requests(*numbered(2)))
    changed = numbered(2)
    changed[0]["prompt"] = "another hill"

    class Killed(Here):
        def make(self, tasks, run):
            self.job.storage.write("a-0.webp", b"the image of another hill")
            journal = {"begun": {"a-0": 1}, "outcomes": []}
            self.job.storage.write(".batch/done/run-0.json", json.dumps(journal).encode())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried.run(tried.requests(*changed), Killed)
    unknown = tried.results()["a-0"]
    assert (unknown["status"], unknown["digest"], unknown["file"]) == ("failed", None, "a-0.webp")
    assert "run the same command again" in unknown["error"]
    assert tried.run(tried.requests(*numbered(2))).skipped == 1
    assert read_metadata(tried.output / "a-0.webp")["prompt"] == "hill 0"


@pytest.mark.parametrize("is_killed", [False, True])
def test_an_earlier_image_in_another_format_is_known_after_an_interruption(
    tried, monkeypatch, is_killed
):
    tried.run(tried.requests(*numbered(1)))
    requests = tried.requests(*numbered(1, output_format="png"))

    class Killed(Here):
        def make(self, tasks, run):
            self.job.storage.write("a-0.png", b"the new image")
            journal = {"begun": {"a-0": 1}, "outcomes": []}
            self.job.storage.write(".batch/done/run-0.json", json.dumps(journal).encode())
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if is_killed:  # it cannot write its results either
            patch.setattr(run, "_write_down", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            tried.run(requests, Killed)
    assert tried.images() == ["a-0.png", "a-0.webp"]
    assert tried.run(requests).failed == 0
    assert tried.images() == ["a-0.png"]
    assert tried.results()["a-0"]["file"] == "a-0.png"


def test_an_earlier_image_stays_until_another_replaces_it(tried):
    tried.run(tried.requests({"name": "a", "prompt": "hill"}))
    failing = {"name": "a", "prompt": "always: fail", "output_format": "png"}
    for prompt in ("always: fail", "always: refuse"):
        assert tried.run(tried.requests({**failing, "prompt": prompt})).failed == 1
        assert tried.images() == ["a.webp"]
        result = tried.results()["a"]
        assert (result["status"], result["file"]) == ("failed", "a.webp")
    tried.run(tried.requests({**failing, "prompt": "sea"}))
    assert tried.images() == ["a.png"]


def test_a_name_in_another_case_replaces_the_earlier_image(tried):
    tried.run(tried.requests({"name": "Mug", "prompt": "hill"}))
    tried.run(tried.requests({"name": "mug", "prompt": "sea"}))
    (image,) = tried.images()
    assert image.lower() == "mug.webp"
    assert read_metadata(tried.output / image)["prompt"] == "sea"


def test_a_failing_request_prints_no_traceback(tried, caplog):
    tried.run(tried.requests({"name": "a", "prompt": "always: fail"}))
    assert [each for each in caplog.records if each.levelname != "DEBUG"] == []
    assert tried.results()["a"]["error"] == "RuntimeError: the device said no"


def test_an_engine_that_leaves_images_out_in_silence_is_an_error(tried):
    requests = tried.requests(*numbered(3))

    class Forgetful(Here):
        def make(self, tasks, run):
            return super().make(list(tasks)[:2], run)

    with pytest.raises(UserError, match=r"^1 images were not made"):
        tried.run(requests, Forgetful)
    assert tried.run(requests).skipped == 2
    assert len(tried.images()) == 3


def test_journals_that_cannot_be_read_stay_for_the_next_run(tried, monkeypatch):
    requests = tried.requests(*numbered(2))

    class Interrupted(Here):
        def make(self, tasks, run):
            next(super().make(tasks, run))
            yield from ()
            raise KeyboardInterrupt

    def unreadable(storage):
        raise UserError("the output cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(run, "read_journals", unreadable)
        with pytest.raises(UserError, match="cannot be read"):
            tried.run(requests, Interrupted)
    assert tried.run(requests).skipped == 1
    assert len(tried.prompts) == 2


def test_what_a_killed_worker_was_writing_is_no_journal(tried):
    done = tried.output / ".batch" / "done"
    done.mkdir(parents=True)
    for name in (".run-0.json.0a1b2c3d", "run-0.json.unfinished", "run-0.json"):
        (done / name).write_bytes(b'{"begun": {')
    assert tried.run(tried.requests(*numbered(1))).failed == 0
    assert tried.images() == ["a-0.webp"]


def test_without_work_no_engine_is_started(tried):
    requests = tried.requests(*numbered(1))
    tried.run(requests)
    assert tried.run(requests, None).skipped == 1


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
    """In the place of loading: a bundle that draws grey and counts what it encodes."""

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


def test_an_image_that_cannot_be_written_is_that_request_s_failure(tried, monkeypatch):
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

    class Losing(Here):
        def make(self, tasks, run):
            monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
            return super().make(tasks, run)

    with pytest.raises(UserError, match=r"^the output cannot be written: ConnectionError$"):
        tried.run(tried.requests(*numbered(1)), Losing, output=f"memory://{tried.folder.name}")


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

    class Second(Here):
        def make(self, tasks, run):
            with pytest.raises(UserError, match=r"^--output: another batch writes into this"):
                tried.run(requests)
            return super().make(tasks, run)

    assert tried.run(requests, Second).failed == 0


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from dream_o.batch.here import Here
from dream_o.batch.run import Batch, run_batch
from tests.batch.conftest import Quiet
from tests.batch.stub import StubLoad

folder = Path({folder!r})
batch = Batch(str(folder / "requests.jsonl"), str(folder / "out"))
for _ in range(2):  # the second time after Ctrl-C
    try:
        run_batch(batch, Here, Quiet(), StubLoad(folder, seconds=0.1))
    except KeyboardInterrupt:
        pass
"""


def test_a_batch_that_is_interrupted_and_then_killed_loses_the_images_in_flight_alone(tried):
    requests = tried.requests(*numbered(30))
    code = KILLED.format(root=str(ROOT), folder=str(tried.folder))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    for number, begun in ((signal.SIGINT, 7), (signal.SIGKILL, 16)):
        while len(tried.prompts) < begun:
            time.sleep(0.01)
            assert process.poll() is None
        os.kill(process.pid, number)
    process.wait()
    begun = len(tried.prompts)
    assert begun < 30
    for image in tried.images():
        Image.open(tried.output / image).load()
    # Of the images that were begun, the one of each signal was begun twice or not recorded.
    summary = tried.run(requests)
    assert summary.skipped >= begun - 2
    assert len(tried.prompts) <= 32
    assert len(tried.images()) == 30
    assert {row["status"] for row in tried.results().values()} == {"succeeded"}
    assert not (tried.output / ".batch").exists()


def test_the_command_prints_the_results_and_fails_if_an_image_did(tried, monkeypatch, capsys):
    monkeypatch.setattr(worker, "LoadedDreamO", lambda *_: StubLoad(tried.folder)(None))
    requests = tried.requests(*numbered(2), {"name": "z", "prompt": "always: fail"})
    assert main([requests, "--output", f"{tried.output}/", "--no-ray"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tried.output}/results.parquet\n"
    assert "3 requests, 0 were there, 1 failed" in printed.err
    assert "3/3, 1 failed" in printed.err
    assert "a minute, " in printed.err

    (tried.folder / "grid.json").write_text(json.dumps({"prompt": "x", "seed": [1, 2]}))
    grid = [str(tried.folder / "grid.json"), "--matrix", "--output", str(tried.folder / "two")]
    assert main([*grid, "--no-ray"]) == 0
    assert (tried.folder / "two" / "seed2.webp").is_file()


def test_the_command_fails_if_all_rows_are_left_out(tried, capsys):
    requests = tried.requests({"name": "a"}, {"name": "b", "prompt": "x", "width": 1})
    command = [requests, "--output", str(tried.output), "--no-ray", "--skip-bad"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == (
        "error: all 2 rows are wrong, and nothing was made; failed.jsonl in the output folder says "
        "why"
    )
    assert len((tried.output / "failed.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("pyarrow", "error: pyarrow is not installed; run pip install pyarrow\n"),
        (
            "ray",
            'error: ray is not installed; run pip install "dream-o[batch]", or add --no-ray to use '
            "this process alone\n",
        ),
    ],
)
def test_a_package_that_is_not_installed_is_told(tried, monkeypatch, capsys, module, error):
    from dream_o.batch import command

    found = command.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == module else found(name))
    assert main([tried.requests(*numbered(1)), "--output", str(tried.output)]) == 1
    assert capsys.readouterr().err == error


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--min", "0"], "argument --min: '0' is not a whole number from 1 to 100000"),
        (["--min", "3", "--max", "2"], "--min 3 is more than --max 2; lower --min"),
        (
            ["--address", "127.0.0.1:1"],
            "--address 127.0.0.1:1: no Ray cluster answers there; give HOST:PORT of a head node, "
            "or auto on a machine of the cluster",
        ),
    ],
)
def test_actors_that_cannot_be_are_refused(tried, capsys, options, error):
    assert main([tried.requests(*numbered(1)), "--output", str(tried.output), *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {error}")
    assert not tried.output.exists()


def test_the_earlier_image_of_a_request_that_kills_its_worker_stays_known(tmp_path):
    storage = Storage(str(tmp_path))
    for _ in range(2):
        assert Journal(storage, "journal.json").begin("a", "digest", "a.webp") is None
    killing = Journal(storage, "journal.json").begin("a", "digest", "a.webp")
    assert (killing.status, killing.file) == ("failed", "a.webp")
