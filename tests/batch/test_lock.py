"""One batch in a folder at a time: on this machine at once, between machines by a lock object."""

import json
import os
import tempfile
import time

import pytest

from dream_o.batch import lock
from dream_o.batch.here import Here
from dream_o.batch.lock import LOCK, alone
from dream_o.batch.storage import Storage
from dream_o.errors import UserError
from tests.batch.conftest import numbered


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "out"))


def sign(storage, owner="another", ago=0.0):
    content = json.dumps({"owner": owner, "time": time.time() - ago}).encode()
    storage.write(LOCK, content)
    return content


def test_a_folder_is_kept_and_given_back(storage):
    with alone(storage) as check:
        assert storage.read(LOCK)
        check()
    assert not storage.folder.exists()


def test_a_batch_of_another_machine_keeps_this_one_out(storage):
    content = sign(storage, ago=30)
    with (
        pytest.raises(
            UserError, match=r"another machine writes into this folder; .* again in 90 s"
        ),
        alone(storage),
    ):
        pass
    assert storage.read(LOCK) == content


def test_a_batch_of_another_machine_that_was_killed_does_not(storage):
    sign(storage, ago=lock.GONE_SECONDS + 1)
    with alone(storage) as check:
        check()
    storage.write(LOCK, b"half of a lo")
    with alone(storage) as check:
        check()


def test_a_batch_of_this_machine_that_was_killed_does_not(storage):
    with alone(storage):
        left = storage.read(LOCK)
    storage.write(LOCK, left)
    with alone(storage) as check:
        check()


def test_the_owner_gives_signs_of_life(storage, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with alone(storage):
        first = storage.read(LOCK)
        end = time.monotonic() + 60
        while storage.read(LOCK) in (first, None) and time.monotonic() < end:
            time.sleep(0.01)
        later = json.loads(storage.read(LOCK))
    assert later["owner"] == json.loads(first)["owner"]
    assert later["time"] > json.loads(first)["time"]


@pytest.mark.parametrize("ends", [False, True])
def test_a_batch_that_lost_its_folder_writes_no_results_into_it(tried, ends):
    requests = tried.requests(*numbered(2))

    class Slow(Here):
        def make(self, tasks, run):
            yield from super().make(tasks, run)
            sign(self.job.storage)
            if ends:
                raise RuntimeError("something else")

    with pytest.raises(UserError, match=r"^--output: a batch of another machine took this folder"):
        tried.run(requests, Slow)
    assert not (tried.output / "results.parquet").exists()
    assert json.loads((tried.output / LOCK).read_bytes())["owner"] == "another"


def test_the_machine_that_comes_second_to_an_empty_folder_is_refused(storage, monkeypatch):
    create = Storage.create
    monkeypatch.setattr(Storage, "create", lambda self, *given: sign(self) and create(self, *given))
    with pytest.raises(UserError, match="another machine writes into this folder"), alone(storage):
        pass


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "out").write_text("no folder")
    with (
        pytest.raises(UserError, match=r"^the output cannot be written: "),
        alone(Storage(str(tmp_path / "out"))),
    ):
        pass


def test_an_answer_to_the_lock_that_was_lost_does_not_refuse_its_owner(storage, monkeypatch):
    create = Storage.create

    def lost(self, *given):
        create(self, *given)
        return create(self, *given)  # the second try finds what the first wrote

    monkeypatch.setattr(Storage, "create", lost)
    with alone(storage) as check:
        check()


def test_users_of_a_machine_have_lock_files_of_their_own(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    names = set()
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        with alone(storage):
            names |= {path.name for path in tmp_path.glob("dream-o-batch-*.lock")}
    assert len(names) == 2
