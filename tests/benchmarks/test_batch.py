"""The benchmark of batches, with a model that returns noise and without Ray."""

import json

from benchmarks import batch
from benchmarks.__main__ import main
from benchmarks.measure import Measured
from benchmarks.noise import LoadNoise


def test_the_report_compares_the_engines_and_tells_the_memory(tmp_path, monkeypatch, capsys):
    """Every batch runs in this process, in place of a process of its own."""
    peaks = iter([100, 100, 100, 100, 100, 100, 102])
    cases = []

    def here(imports, step, folder):
        cases.append(imports.partition("import ")[2])
        make = batch.plain_loop if "plain_loop" in imports else batch.one_process
        make(folder, LoadNoise)
        return Measured(1.0, next(peaks) * 1_000_000, 0)

    monkeypatch.setattr(batch, "measure", here)
    monkeypatch.setattr(batch, "CHEAP", 5)
    command = ["batch", "--images", "3", "--rows", "4,24", "--output", str(tmp_path)]
    assert main(command) == 0
    report = json.loads((tmp_path / "batch.json").read_text())
    assert [row["requests"] for row in report["rows"]] == [3, 3, 5, 5, 5, 4, 24]
    assert all(row["ms a request"] > 0 for row in report["rows"])
    assert report["driver's bytes a row"] == "100000 up to 24"
    assert report["bar"] == 1.7
    assert list(report["ms a request beyond a plain loop"]) == [
        "noise, one process",
        "noise, one actor",
    ]
    assert cases[:2] == [
        "one_process as make, LoadModel as load",
        "two_actors as make, LoadModel as load",
    ]
    assert "times faster with two actors" in capsys.readouterr().out
