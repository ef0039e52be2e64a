"""Temporary folders of killed processes are deleted by the next process."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from dream_o import locked_folders
from dream_o.locked_folders import delete_abandoned, lock_folder, make_locked, temporary_folder
from tests import ROOT

MACHINE = locked_folders.MACHINE
ABANDONED = f"dream-o-page-{MACHINE}-0123456789ab"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(locked_folders, "_locks", {})
    return tmp_path


def test_the_folder_of_a_killed_process_is_deleted_and_a_living_ones_stays(here):
    code = (
        "import sys; from dream_o.locked_folders import make_temporary;"
        "print(make_temporary('page'), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(here)},
    ) as other:
        folder = Path(other.stdout.readline().strip())
        assert folder.parent == here
        (folder / "upload.png").write_bytes(b"x")
        delete_abandoned(here)
        assert (folder / "upload.png").exists()
        other.kill()
        other.wait()
    with temporary_folder("batch") as own:
        assert list(here.iterdir()) == [own]


def test_only_this_user_can_read_a_folder_and_the_end_deletes_it(here):
    def use() -> None:
        with temporary_folder("batch") as folder:
            (folder / "references").mkdir()
            assert folder.stat().st_mode & 0o777 == 0o700
            assert lock_folder(folder) is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert list(here.iterdir()) == []
    assert locked_folders._locks == {}


@pytest.mark.parametrize(
    "name",
    [
        "dream-o-page",
        "dream-o-batch-results",
        "dream-o-{here}-0123456789ab",
        "dream-o-my-page-{here}-0123456789ab",
        "dream-o-page-{here}-0123456789abc",
        "dream-o-page-{here}-0123456789aB",
        "dream-o-page-{other}-0123456789ab",
    ],
)
def test_a_folder_of_another_machine_or_with_a_similar_name_stays(here, name):
    abandoned, similar = here / ABANDONED, here / name.format(here=MACHINE, other="0" * 8)
    abandoned.mkdir()
    similar.mkdir()
    delete_abandoned(here)
    assert list(here.iterdir()) == [similar]


def test_a_link_with_such_a_name_does_not_lead_outside(here):
    precious = here / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    (here / ABANDONED).symlink_to(precious)
    (here / ABANDONED.replace("page", "batch")).mkdir()
    delete_abandoned(here)
    assert {each.name for each in here.iterdir()} == {"precious", ABANDONED}
    assert (precious / "file").exists()


def test_a_folder_that_was_deleted_can_be_made_again(here):
    folder = here / ABANDONED
    make_locked(folder)
    folder.rmdir()
    make_locked(folder)
    assert lock_folder(folder) is None
    locked_folders.delete_locked(folder)
    assert not folder.exists()
    assert locked_folders._locks == {}


def test_threads_that_make_a_folder_together_keep_it_locked(here):
    folder = here / ABANDONED
    threads = [threading.Thread(target=make_locked, args=(folder,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(here.iterdir()) == [folder]
    assert lock_folder(folder) is None


def test_a_folder_that_cannot_be_named_leaves_nothing(here):
    (here / ABANDONED).write_bytes(b"a file")
    with pytest.raises(OSError, match=ABANDONED):
        make_locked(here / ABANDONED)
    assert [each.name for each in here.iterdir()] == [ABANDONED]
    assert locked_folders._locks == {}


def test_a_process_deletes_its_folders_when_it_ends(here):
    code = "from dream_o.locked_folders import make_temporary; print(make_temporary('page'))"
    environ = {**os.environ, "TMPDIR": str(here)}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, env=environ)
    assert made.stdout.startswith(str(here).encode())
    assert list(here.iterdir()) == []
