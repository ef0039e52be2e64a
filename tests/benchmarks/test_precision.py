"""The benchmarks of precisions: what the images lose, and how often they show what was asked."""

import json

import numpy as np
import pytest
import torch

from benchmarks import precision, shares
from dream_o.quantized_linear import QuantizedLinear
from training.miniature.evaluation import held_out_examples
from training.world.drawing import draw_tiles


def test_fast_multiplies_in_eight_bits_and_nothing_is_timed(
    tmp_path, fused, not_compiled, monkeypatch
):
    products = set()
    multiply = QuantizedLinear._multiply
    monkeypatch.setattr(
        QuantizedLinear,
        "_multiply",
        lambda self, tokens: products.add(tokens.data.dtype) or multiply(self, tokens),
    )
    monkeypatch.setattr(precision, "STEPS", 5)
    monkeypatch.setattr("dream_o.service.generator.SMALL_WARM_UP", (240, (0,)))
    asked = {"count": 1, "size": 240, "precisions": ("int8", "fp8")}
    precision.run(tmp_path, device="cpu", weights=fused("v1.1", True), **asked)
    rows = json.loads((tmp_path / "precision.json").read_text())["rows"]
    assert [(row["what"], row["products"], row["steps computed"]) for row in rows] == [
        ("exact, bfloat16", "bfloat16", 5),
        ("exact, int8", "bfloat16", 5),
        ("fast, int8", "int8", 4),
        ("fast, all steps, int8", "int8", 5),
        ("exact, fp8", "bfloat16", 5),
        ("fast, fp8", "fp8", 4),
        ("fast, all steps, fp8", "fp8", 5),
    ]
    assert products == {torch.int8, torch.float8_e4m3fn}
    assert len({(row["PSNR"], row["largest difference"]) for row in rows}) == len(rows)
    measured = ["PSNR", "least PSNR", "largest difference"]
    for row in rows:
        assert list(row) == ["what", "products", "steps computed", *measured]
    assert "`_int_mm`" in (tmp_path / "precision.md").read_text()


@pytest.fixture
def drawing(monkeypatch):
    """`draw_all` that draws truly, but for int4 the next example's image; yields its jobs."""
    made = []

    def draw_all(bundle, jobs, processes):
        made.extend((bundle.name, job.seed) for job in jobs)
        random = np.random.default_rng(0)
        examples = held_out_examples("ip", 3)
        wrong = bundle.name == "int4"
        shown = [examples[(job.seed + wrong) % 3] for job in jobs]
        return [
            (draw_tiles(each.contents, 48, 48, random).astype(np.float32), 1.0) for each in shown
        ]

    monkeypatch.setattr(shares, "draw_all", draw_all)
    return made


def test_shares_are_compared_one_by_one(tmp_path, fused, drawing, monkeypatch):
    monkeypatch.setattr(shares, "PART", 2)
    asked = {"weights": fused("v1.1", True), "precisions": ("int4",), "tasks": ("ip",), "count": 3}
    shares.run(tmp_path / "report", kept=tmp_path / "kept", **asked)
    rows = json.loads((tmp_path / "report" / "shares.json").read_text())["rows"]
    assert [row["share"] for row in rows][:2] == ["ip: scene", "ip: colour"]
    for row in rows:
        assert row["float32"] == 100
        assert row["int4 points"] == pytest.approx(row["int4"] - 100)
    assert min(row["int4 points"] for row in rows) < 0
    assert len(drawing) == 6


def test_finished_images_are_not_drawn_again(tmp_path, fused, drawing):
    asked = {"weights": fused("v1.1", True), "tasks": ("ip",), "kept": tmp_path / "kept"}
    shares.run(tmp_path / "two", precisions=("int4",), count=2, **asked)
    assert len(drawing) == 4
    shares.run(tmp_path / "three", precisions=("int4",), count=3, **asked)
    assert drawing[4:] == [(fused("v1.1", True).name, 2), ("int4", 2)]
    first, again = (
        json.loads((tmp_path / name / "shares.json").read_text()) for name in ("two", "three")
    )
    assert "--count 2" in first["command"]
    assert again["largest difference, points"] > 0
