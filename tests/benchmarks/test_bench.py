"""The benchmarks' models and reports, on the smallest model there is."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from benchmarks import miniature
from benchmarks.measure import Measured, measure
from benchmarks.models import Size, generate_adapters, generate_base
from benchmarks.options import offered
from benchmarks.report import table, write
from dream_o.errors import SettingError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.runtime.speed import MODES
from dream_o.weights.build.fuse import fuse
from dream_o.weights.build.recipe import RECIPES
from dream_o.weights.format.load import load_components

TINY = Size(heads=1, double=1, single=1, t5_layers=1, rank=2)


def test_a_generated_model_is_fused_and_loads(tmp_path: Path) -> None:
    parameters = generate_base(tmp_path / "base", TINY, torch.bfloat16)
    generate_adapters(tmp_path / "adapters", TINY, torch.bfloat16)
    for version in RECIPES:
        fuse(tmp_path / "base", tmp_path / "adapters", version, tmp_path / version)
        components = load_components(tmp_path / version)
        held = sum(
            parameter.numel()
            for name in ("transformer", "text_encoder_2")
            for parameter in components[name].parameters()
        )
        # The bundle has two tables more, and of T5's rows the tokenizer's 178 and ten.
        assert held == parameters + 12 * 128 - (32128 - 188) * 1024


def test_a_step_is_measured_in_a_process_of_its_own() -> None:
    small = measure("", "pass")
    large = measure("", "held = bytearray(size)", size=300_000_000)
    assert small.seconds >= 0
    assert large.peak - small.peak > 250_000_000


def test_a_report_is_a_table_a_plot_and_numbers(tmp_path: Path) -> None:
    rows = [{"what": "one & two", "seconds": 2.0}, {"what": "three", "seconds": 1.0}]
    write(tmp_path, "name", "# Title\n\nText.", rows, "seconds", {"ratio": 2})
    assert json.loads((tmp_path / "name.json").read_text()) == {"rows": rows, "ratio": 2}
    page = (tmp_path / "name.md").read_text()
    assert "| three | 1.0 |" in page
    assert "![Title](name.svg)" in page
    texts = [each.text for each in ElementTree.parse(tmp_path / "name.svg").findall(".//{*}text")]
    assert {"Title: seconds", "one & two", "three", "2", "1"} <= set(texts)
    assert table(rows).splitlines()[0] == "| what | seconds |"


def test_modes_that_do_not_run_here_are_told(monkeypatch, capsys) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert offered(MODES, torch.device("cpu")) == ["exact"]
    assert "compiled is skipped: DREAM_O_SPEED='compiled' needs" in capsys.readouterr().err
    with pytest.raises(SettingError, match="needs a C"):
        offered(["compiled"], torch.device("cpu"))


def test_the_miniatures_report_compares_the_same_requests_at_all_sizes(
    tmp_path: Path, monkeypatch
) -> None:
    asked = []

    def evaluate(weights, count, size, *, processes, compared):
        assert processes == 2
        asked.append((count, size, compared))
        tasks = {"ip": {"shape": 0.5, "colour": 1.0, "seconds": 2.0}}
        return {"judge": 1.0, "tasks": tasks, "compared": {"ip": size[0] / 1024}}

    monkeypatch.setattr(miniature, "evaluate", evaluate)
    monkeypatch.setattr(miniature, "steering", lambda *_: {"saturation at 1": 0.25})
    monkeypatch.setattr(miniature, "measure", lambda *_, **__: Measured(2.0, 10**9, 0))
    miniature.run(tmp_path, count=4, processes=2, weights=EMBEDDED_BUNDLE)
    assert asked == [(4, (1024, 1024), 2), (2, (768, 1024), 2), (2, (768, 768), 2)]
    report = json.loads((tmp_path / "miniature.json").read_text())
    assert report["rows"][0]["share right"] == 0.75
    assert report["ip: most between two sizes, points"] == 25.0
    assert report["one image, id+ip"] == "2.0 s, 1.00 GB"
