"""The command `dream-o batch` without Ray."""

import json

import pytest

from dream_o.batch import worker
from dream_o.batch.command import main
from tests.batch.conftest import numbered
from tests.batch.stub import StubLoad


def test_the_command_prints_the_path_of_the_results_and_returns_1_if_an_image_failed(
    tried, monkeypatch, capsys
):
    monkeypatch.setattr(worker, "LoadedDreamO", lambda *_: StubLoad(tried.folder)(None))
    requests = tried.requests(*numbered(2), {"name": "z", "prompt": "always: fail"})
    assert main([requests, "--output", f"{tried.output}/", "--no-ray"]) == 1
    printed = capsys.readouterr()
    assert printed.out == f"{tried.output}/results.parquet\n"
    assert "3 requests, 0 already done, 1 failed" in printed.err
    assert "3/3, 1 failed" in printed.err
    assert "a minute, " in printed.err

    (tried.folder / "grid.json").write_text(json.dumps({"prompt": "x", "seed": [1, 2]}))
    grid = [str(tried.folder / "grid.json"), "--matrix", "--output", str(tried.folder / "two")]
    assert main([*grid, "--no-ray"]) == 0
    assert (tried.folder / "two" / "seed2.webp").is_file()


def test_the_command_returns_1_if_all_rows_are_wrong(tried, capsys):
    requests = tried.requests({"name": "a"}, {"name": "b", "prompt": "x", "width": 1})
    command = [requests, "--output", str(tried.output), "--no-ray", "--skip-bad"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == (
        "error: all 2 rows are wrong, and no image was made; failed.jsonl in the output folder "
        "says why"
    )
    assert len((tried.output / "failed.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("pyarrow", "error: pyarrow is not installed; run pip install pyarrow\n"),
        (
            "ray",
            'error: ray is not installed; run pip install "dream-o[batch]", or add --no-ray to '
            "make all images in this process\n",
        ),
    ],
)
def test_a_missing_package_is_an_error_with_the_command_that_installs_it(
    tried, monkeypatch, capsys, module, error
):
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
def test_impossible_numbers_of_actors_and_devices_are_refused(tried, capsys, options, error):
    assert main([tried.requests(*numbered(1)), "--output", str(tried.output), *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {error}")
    assert not tried.output.exists()
