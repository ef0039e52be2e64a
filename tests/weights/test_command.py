"""The command `dream-o weights`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dream_o.cli.weights import main
from dream_o.weights.format.bundle import read_bundle
from tests.conftest import PARITY


def test_fuse_prints_the_bundle_s_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = str(tmp_path / "bundle")
    sources = ["--base", str(PARITY / "base"), "--adapters", str(PARITY / "adapters")]
    choices = ["--version", "v1", "--no-turbo", "--dtype", "bfloat16"]
    status = main(["fuse", *sources, *choices, "--output", output])
    assert status == 0
    assert capsys.readouterr().out == f"{output}\n"
    bundle = read_bundle(tmp_path / "bundle")
    assert (bundle.model_version, bundle.turbo, bundle.precision) == ("v1", False, "bfloat16")


def test_a_mistake_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status = main(["fuse", "--base", str(tmp_path), "--adapters", str(tmp_path), "--output", "x"])
    assert status == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("empty", [[], ["base"]], ids=["no folder", "an empty folder"])
def test_fuse_before_download_names_the_command(
    empty: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for name in empty:
        (tmp_path / name).mkdir()
    command = ["--folder", str(tmp_path), "fuse", "--output", str(tmp_path / "bundle")]
    assert main(command) == 1
    assert capsys.readouterr().err == (
        "error: the base model must be downloaded first: run dream-o weights download, or name a "
        "folder with --base\n"
    )
    assert main([*command, "--base", str(PARITY / "base")]) == 1
    assert capsys.readouterr().err == (
        "error: the adapters must be downloaded first: run dream-o weights download, or name a "
        "folder with --adapters\n"
    )


def test_info_prints_what_a_bundle_contains(
    fused: Callable[[str, bool], Path], capsys: pytest.CaptureFixture
) -> None:
    assert main(["info", str(fused("v1.1", True))]) == 0
    out = capsys.readouterr().out
    assert "DreamO v1.1, with turbo" in out
    assert "float32" in out
    # 555,712 = FLUX's tensors of the parity base and the two tables, (2 + 10) x 64
    assert "555,712" in out
    assert "800,315" in out
