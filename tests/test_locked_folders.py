"""Temporary folders of killed processes are deleted by the next process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dream_o import locked_folders
from dream_o.locked_folders import delete_abandoned, lock_folder, make_locked, temporary_folder
from tests import ROOT


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
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
        "dream-o",
        "dream-o-page",
        "dream-o-batch-results",
        "dream-o-0123456789ab",
        "dream-o-my-page-0123456789ab",
        "dream-o-page-0123456789abc",
        "dream-o-faults-0123456789aB",
    ],
)
def test_a_users_folder_with_a_similar_name_stays(here, name):
    (here / name).mkdir()
    delete_abandoned(here)
    assert (here / name).is_dir()


def test_a_link_with_such_a_name_does_not_lead_outside(here):
    precious = here / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"x")
    (here / "dream-o-page-0123456789ab").symlink_to(precious)
    delete_abandoned(here)
    assert (precious / "file").exists()


def test_a_folder_that_was_deleted_can_be_made_again(here):
    folder = here / "dream-o-worker-0123456789ab"
    make_locked(folder)
    folder.rmdir()
    make_locked(folder)
    assert lock_folder(folder) is None
    locked_folders.delete_locked(folder)
    assert not folder.exists()
    assert locked_folders._locks == {}
