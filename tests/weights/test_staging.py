"""A folder is written completely or not at all, even if the disk fails."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dream_o.cli.weights import main
from dream_o.errors import BundleError
from dream_o.weights.build.fuse import fuse
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.bundle import is_bundle, read_bundle
from dream_o.weights.format.staging import staged
from tests.conftest import PARITY
from tests.weights.disk_refusals import DISK_REFUSALS

BASE, ADAPTERS = PARITY / "base", PARITY / "adapters"
Fused = Callable[[str, bool], Path]


def fill(stage: Path, content: str) -> None:
    """Writes the files that `staged` expects from its block."""
    (stage / "weights").write_text(content)
    (stage / ".bundle.json.partial").write_text(content)


def make(target: Path, content: str) -> None:
    """Writes a folder."""
    with staged(target) as stage:
        fill(stage, content)


@pytest.mark.parametrize(("code", "words"), DISK_REFUSALS)
def test_a_disk_error_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "bundle"))

    monkeypatch.setattr("dream_o.weights.format.tensors.os.fsync", refuse)
    with pytest.raises(BundleError) as raised:
        fuse(BASE, ADAPTERS, "v1.1", tmp_path / "bundle")
    assert str(raised.value) == f"bundle was not written: {words}"
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("dear to me")
    with pytest.raises(BundleError, match="bundle was not written: "):
        make(tmp_path / "file/bundle", "new")
    assert (tmp_path / "file").read_text() == "dear to me"


def test_a_command_never_ends_in_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "manifest.toml").mkdir()
    assert main(["--folder", str(tmp_path), "list"]) == 1
    assert capsys.readouterr().err == "error: Is a directory\n"


def test_disk_space_is_checked_before_the_first_byte(
    tmp_path: Path, fused: Fused, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fused("v1.1", True)
    usage = type("Usage", (), {"free": 300_000})
    monkeypatch.setattr("dream_o.weights.format.disk.shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("dream_o.weights.format.staging.tempfile.mkdtemp", None)  # nothing is made
    with pytest.raises(BundleError, match=r"disk space: 3 MB for a, 0 MB free; nothing was wri"):
        fuse(BASE, ADAPTERS, "v1.1", tmp_path / "a")
    with pytest.raises(BundleError, match="not enough disk space: 1 MB for b, 0 MB free"):
        quantize(source, "int8", tmp_path / "b")


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "disk/bundle", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk/bundle")
    make(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk/bundle/weights").read_text() == "new"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BundleError, match=r"^loop "):
        make(tmp_path / "loop", "new")


def test_the_temporary_folder_is_not_a_bundle(tmp_path: Path) -> None:
    with staged(tmp_path / "bundle") as stage:
        fill(stage, "new")
        assert not is_bundle(stage)
    assert is_bundle(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_run_that_was_killed_between_its_last_two_renames_is_replaced(tmp_path: Path) -> None:
    make(tmp_path / "bundle", "old")
    (tmp_path / "bundle/bundle.json").rename(tmp_path / "bundle/.bundle.json.partial")
    assert not is_bundle(tmp_path / "bundle")
    make(tmp_path / "bundle", "new")
    assert (tmp_path / "bundle/bundle.json").read_text() == "new"


@pytest.mark.parametrize("failing", [2, 3])
def test_a_failed_replacement_restores_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    make(tmp_path / "bundle", "old")
    rename, renames = Path.replace, []

    def replace(path: Path, target: Path) -> Path:
        renames.append(path)
        if len(renames) == failing:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(BundleError, match="bundle was not written: Input/output error"):
        make(tmp_path / "bundle", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle/bundle.json").read_text() == "old"
    assert (tmp_path / "bundle/weights").read_text() == "old"


def test_a_name_with_wildcards_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / ".a.partial-other").mkdir()
    make(tmp_path / "[a]", "new")
    make(tmp_path / "*", "new")
    assert (tmp_path / ".a.partial-other").is_dir()


def test_an_output_inside_of_a_source_or_without_a_name(tmp_path: Path, fused: Fused) -> None:
    with pytest.raises(BundleError, match="inside a folder that it is made from"):
        quantize(fused("v1.1", True), "int8", fused("v1.1", True) / "vae/small")
    with pytest.raises(BundleError, match="must be the name of a folder"):
        make(Path(), "new")
    assert read_bundle(fused("v1.1", True)).precision == "float32"
