"""The quality benchmark: its measures, and what leaving steps out does to an image."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmarks.held_out import held_out_requests
from benchmarks.plot import Point, curves
from benchmarks.quality import STEPS, compare, largest_difference, psnr, run


def grey(level):
    return Image.new("RGB", (4, 4), (level,) * 3)


def test_psnr_is_that_of_its_definition():
    assert psnr(grey(7), grey(7)) == float("inf")
    assert psnr(grey(0), grey(255)) == 0
    assert psnr(grey(100), grey(110)) == pytest.approx(20 * np.log10(25.5))
    one_pixel = np.zeros((4, 4, 3), np.uint8)
    one_pixel[0, 0, 0] = 200
    assert largest_difference(Image.fromarray(one_pixel), grey(3)) == 197


def test_the_median_and_the_worst_are_told():
    shown = compare([grey(1), grey(2), grey(5)], [grey(1)] * 3)
    assert shown == {"PSNR": 48.13, "least PSNR": 36.09, "largest difference": 4}
    assert compare([grey(1)], [grey(1)])["PSNR"] == "equal"


def test_requests_are_of_all_tasks_in_turns_and_the_same_every_time(tmp_path):
    first, second = (held_out_requests(tmp_path, 6, 768, 12) for _ in range(2))
    assert first == second
    tasks = [[each.task for each in request.references] for request in first]
    assert tasks == [[], ["ip"], ["id"], ["style"], ["id", "ip"], []]
    assert [request.seed for request in first] == list(range(6))
    assert first[0].prompt != first[5].prompt
    assert all(each.image.exists() for request in first for each in request.references)


def test_steps_that_are_left_out_are_counted_and_cost(tmp_path, fused):
    asked = {"count": 1, "size": 256, "modes": ("exact",), "reuse": ((3, 2), (12, 2))}
    run(tmp_path, device="cpu", weights=fused("v1.1", True), **asked)
    exact, some, none = json.loads((tmp_path / "quality.json").read_text())["rows"]
    assert exact["what"] == "exact, float32"
    assert [exact[name] for name in ("PSNR", "largest difference")] == ["equal", 0]
    assert [row["steps computed"] for row in (exact, some, none)] == [STEPS, 8, STEPS]
    assert 15 < some["PSNR"] == some["least PSNR"]
    assert some["largest difference"] > 0
    assert some["steps over computed"] == 1.5
    assert none["PSNR"] == "equal"
    assert "![Quality: each speed mode against exact float32](quality-reuse.svg)" in (
        (tmp_path / "quality.md").read_text()
    )
    plot = ElementTree.parse(tmp_path / "quality-reuse.svg")
    texts = [text.text or "" for text in plot.findall(".//{*}text")]
    # Every point has its A, B beside it, and every line its name.
    assert [text for text in texts if re.fullmatch(r"\d+, \d+", text)] == ["3, 2"]
    assert [text for text in texts if text.startswith("one in ")] == ["one in 2"]


def test_curves_show_every_point_and_name_and_are_the_same_file_twice():
    lines = {"a & b": [Point(2, 10, "here"), Point(1, 30), Point(3, 20)]}
    plot = curves("Title", "x", "y", lines)
    assert plot == curves("Title", "x", "y", lines)
    texts = [text.text for text in ElementTree.fromstring(plot).findall(".//{*}text")]
    assert {"Title", "x", "y", "a & b", "here"} <= set(texts)
    circles = ElementTree.fromstring(plot).findall('.//{*}g[@id="axes_1"]//{*}use')
    assert len(circles) >= 3
