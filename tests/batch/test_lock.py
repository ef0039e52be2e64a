"""Only one batch at a time in a folder: by a lock on this machine, and a file in the folder."""

import json
import os
import tempfile
import threading
import time
from contextlib import nullcontext, suppress

import pytest

from dream_o.batch import lock
from dream_o.batch.in_process import InProcess
from dream_o.batch.lock import LOCK, alone
from dream_o.batch.storage import Storage
from dream_o.errors import UserError
from tests.batch.conftest import numbered


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The machine's temporary folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    return folder


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "out"))


def sign(storage, owner="another", ago=0.0):
    content = json.dumps({"owner": owner, "time": time.time() - ago}).encode()
    storage.write(LOCK, content)
    return content


def test_a_folder_is_locked_until_the_batch_ends(storage):
    with alone(storage) as check:
        assert storage.read(LOCK)
        check()
    assert not storage.folder.exists()


def test_a_batch_on_another_machine_refuses_this_one(storage):
    content = sign(storage, ago=30)
    with (
        pytest.raises(
            UserError, match=r"another machine writes into this folder; .* again in 90 s"
        ),
        alone(storage),
    ):
        pass
    assert storage.read(LOCK) == content


def test_a_killed_batch_on_another_machine_does_not_refuse_this_one(storage):
    sign(storage, ago=lock.GONE_SECONDS + 1)
    with alone(storage) as check:
        check()
    storage.write(LOCK, b"half of a lo")
    with alone(storage) as check:
        check()


def test_a_killed_batch_on_this_machine_does_not_refuse_this_one(storage, here):
    with alone(storage):
        left = storage.read(LOCK)
        files = {path: path.read_bytes() for path in here.iterdir()}
    storage.write(LOCK, left)
    for path, content in files.items():
        path.write_bytes(content)
    with alone(storage) as check:
        check()


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_an_ended_batch_leaves_no_file_in_the_temporary_folder(storage, here, error):
    with pytest.raises(error) if error else nullcontext(), alone(storage):
        assert list(here.iterdir())
        if error:
            raise error
    assert not list(here.iterdir())


def test_batches_that_start_together_never_hold_a_folder_together(storage, here):
    holders, most = [], []

    def work():
        for _ in range(50):
            with suppress(UserError), alone(storage):
                holders.append(1)
                most.append(len(holders))
                holders.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_the_owner_renews_the_lock(storage, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with alone(storage):
        first = storage.read(LOCK)
        end = time.monotonic() + 60
        while storage.read(LOCK) in (first, None) and time.monotonic() < end:
            time.sleep(0.01)
        later = json.loads(storage.read(LOCK))
    assert later["owner"] == json.loads(first)["owner"]
    assert later["time"] > json.loads(first)["time"]


def test_a_batch_whose_lock_is_gone_writes_no_results(tried):
    """Another batch may have taken over, finished, and removed its lock."""

    class Slow(InProcess):
        def make(self, tasks, run):
            yield from super().make(tasks, run)
            self.job.storage.remove(LOCK)

    with pytest.raises(UserError, match=r"^--output: .* somebody removed that file"):
        tried.run(tried.requests(*numbered(1)), Slow)
    assert not (tried.output / "results.parquet").exists()


@pytest.mark.parametrize("ends", [False, True])
def test_a_batch_that_lost_its_folder_writes_no_results_into_it(tried, here, ends):
    requests = tried.requests(*numbered(2))

    class Slow(InProcess):
        def make(self, tasks, run):
            yield from super().make(tasks, run)
            sign(self.job.storage)
            if ends:
                raise RuntimeError("something else")

    with pytest.raises(UserError, match=r"^--output: a batch on another machine took over this"):
        tried.run(requests, Slow)
    assert not (tried.output / "results.parquet").exists()
    assert json.loads((tried.output / LOCK).read_bytes())["owner"] == "another"
    assert list(here.iterdir()) == []


def test_the_second_of_two_machines_that_start_at_once_is_refused(storage, monkeypatch):
    create = Storage.create
    monkeypatch.setattr(Storage, "create", lambda self, *given: sign(self) and create(self, *given))
    with pytest.raises(UserError, match="another machine writes into this folder"), alone(storage):
        pass


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "out").write_text("no folder")
    with (
        pytest.raises(UserError, match=r"^the output cannot be written: "),
        alone(Storage(str(tmp_path / "out"))),
    ):
        pass


def test_a_lost_answer_to_creating_the_lock_does_not_refuse_its_owner(storage, monkeypatch):
    create = Storage.create

    def lost(self, *given):
        create(self, *given)
        return create(self, *given)  # the second try finds what the first wrote

    monkeypatch.setattr(Storage, "create", lost)
    with alone(storage) as check:
        check()


def test_users_of_a_machine_have_lock_files_of_their_own(storage, here, monkeypatch):
    names = set()
    for user in (1000, 1001):
        monkeypatch.setattr(os, "getuid", lambda user=user: user)
        with alone(storage):
            names |= {path.name for path in here.glob("dream-o-batch-*.lock")}
    assert len(names) == 2
