"""Invalid manifests, and the lock file."""

import threading
from pathlib import Path

import pytest

from dream_o.errors import BundleError
from dream_o.weights.fetch.manifest import exclusive, read_manifest

SET = """
[base]
title = "a base model"
repository = "maker/base"
revision = "main"
licence = "Open"
folder = "{folder}"
files = [{{ path = "{path}" }}]
"""


@pytest.mark.parametrize("text", [b"\xff", b"[", b"base = 1", b"[base]\nfiles = 1", b"[base]"])
def test_an_unreadable_manifest_is_named(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_bytes(text)
    with pytest.raises(BundleError, match=r"^manifest\.toml cannot be read: "):
        read_manifest(tmp_path / "manifest.toml")


@pytest.mark.parametrize(
    ("folder", "path"), [("..", "a"), ("base", "../../a"), ("/base", "a"), (".", "manifest.lock")]
)
def test_files_must_be_in_subfolders_of_the_weights_folder(
    folder: str, path: str, tmp_path: Path
) -> None:
    (tmp_path / "manifest.toml").write_text(SET.format(folder=folder, path=path))
    with pytest.raises(BundleError, match="is not inside the weights folder"):
        read_manifest(tmp_path / "manifest.toml")
    (tmp_path / "manifest.toml").write_text(SET.format(folder="base", path="part/a"))
    (file,) = read_manifest(tmp_path / "manifest.toml")["base"].files
    assert file.local == "base/part/a"


def test_a_process_that_waits_for_another_logs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dream_o")
    entered = threading.Event()

    def enter() -> None:
        with exclusive(tmp_path / "download.lock"):
            entered.set()

    with exclusive(tmp_path / "download.lock"):
        assert not caplog.text
        waiting = threading.Thread(target=enter)
        waiting.start()
        while "waiting for another process that holds download.lock" not in caplog.text:
            waiting.join(0.01)
            assert waiting.is_alive()
        assert not entered.is_set()
    waiting.join()
    assert entered.is_set()
