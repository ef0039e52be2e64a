"""The same command is run again: after a change, a failure, an interruption or a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from dream_o.batch import run
from dream_o.batch.in_process import InProcess
from dream_o.batch.results import Journal
from dream_o.batch.storage import Storage
from dream_o.errors import UserError
from dream_o.images.writing import read_metadata
from tests import ROOT
from tests.batch.conftest import numbered


def test_running_the_same_command_again_makes_nothing(tried):
    requests = tried.requests(*numbered(3))
    tried.run(requests)
    before = {path.name: path.read_bytes() for path in tried.output.iterdir()}
    summary = tried.run(requests)
    assert (summary.rows, summary.skipped) == (3, 3)
    assert len(tried.prompts) == 3
    assert {path.name: path.read_bytes() for path in tried.output.iterdir()} == before


def test_only_missing_changed_and_new_images_are_made(tried):
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


def test_results_of_requests_that_were_removed_from_the_file_are_kept(tried):
    tried.run(tried.requests(*numbered(2)))
    tried.run(tried.requests({"name": "b", "prompt": "x"}))
    assert list(tried.results()) == ["b", "a-0", "a-1"]


def test_running_the_same_command_again_retries_failed_requests(tried):
    requests = tried.requests({"name": "a", "prompt": "always: fail"}, *numbered(1))
    assert tried.run(requests).failed == 1
    summary = tried.run(requests)
    assert (summary.skipped, summary.failed) == (1, 1)
    assert tried.prompts.count("hill 0") == 1


def test_an_image_in_a_journal_is_not_made_again_after_an_interruption(tried):
    requests = tried.requests(*numbered(3))

    class Interrupted(InProcess):
        def make(self, tasks, run):
            yield next(made := super().make(tasks, run))
            next(made)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tried.run(requests, Interrupted)
    assert len(tried.results()) == 2
    assert tried.run(requests).skipped == 2
    assert len(tried.prompts) == 3


def test_an_image_that_was_begun_and_not_recorded_is_made_again(tried):
    """Its file may be the new image, while the results still have the earlier request."""
    tried.run(tried.requests(*numbered(2)))
    changed = numbered(2)
    changed[0]["prompt"] = "another hill"

    class Killed(InProcess):
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
def test_an_earlier_image_in_another_format_is_replaced_after_an_interruption(
    tried, monkeypatch, is_killed
):
    tried.run(tried.requests(*numbered(1)))
    requests = tried.requests(*numbered(1, output_format="png"))

    class Killed(InProcess):
        def make(self, tasks, run):
            self.job.storage.write("a-0.png", b"the new image")
            journal = {"begun": {"a-0": 1}, "outcomes": []}
            self.job.storage.write(".batch/done/run-0.json", json.dumps(journal).encode())
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if is_killed:  # a killed command does not write its results
            patch.setattr(run, "_save_results", lambda *_: None)
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


def test_journals_that_cannot_be_read_stay_for_the_next_run(tried, monkeypatch):
    requests = tried.requests(*numbered(2))

    class Interrupted(InProcess):
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


def test_an_unfinished_file_of_a_killed_worker_is_ignored(tried):
    done = tried.output / ".batch" / "done"
    done.mkdir(parents=True)
    for name in (".run-0.json.0a1b2c3d", "run-0.json.unfinished", "run-0.json"):
        (done / name).write_bytes(b'{"begun": {')
    assert tried.run(tried.requests(*numbered(1))).failed == 0
    assert tried.images() == ["a-0.webp"]


def test_if_nothing_is_to_be_made_no_engine_starts(tried):
    requests = tried.requests(*numbered(1))
    tried.run(requests)
    assert tried.run(requests, None).skipped == 1


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from dream_o.batch.in_process import InProcess
from dream_o.batch.run import Batch, run_batch
from tests.batch.conftest import Quiet
from tests.batch.stub import StubLoad

folder = Path({folder!r})
batch = Batch(str(folder / "requests.jsonl"), str(folder / "out"))
for _ in range(2):  # the second time after Ctrl-C
    try:
        run_batch(batch, InProcess, Quiet(), StubLoad(folder, seconds=0.1))
    except KeyboardInterrupt:
        pass
"""


def test_an_interrupted_and_then_killed_batch_loses_only_the_images_in_flight(tried):
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
    # Each of the two signals interrupts at most one image, which is begun again later.
    summary = tried.run(requests)
    assert summary.skipped >= begun - 2
    assert len(tried.prompts) <= 32
    assert len(tried.images()) == 30
    assert {row["status"] for row in tried.results().values()} == {"succeeded"}
    assert not (tried.output / ".batch").exists()


def test_a_request_that_kills_its_worker_keeps_its_earlier_image(tmp_path):
    storage = Storage(str(tmp_path))
    for _ in range(2):
        assert Journal(storage, "journal.json").begin("a", "digest", "a.webp") is None
    killing = Journal(storage, "journal.json").begin("a", "digest", "a.webp")
    assert (killing.status, killing.file) == ("failed", "a.webp")
