"""The scale benchmark: its fits, and a line for every value."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.scale import Load, exponent, growth, line, run


def test_the_growth_is_found():
    tokens = [2816, 3648, 4608]
    assert exponent(tokens, [2e-9 * each**1.7 for each in tokens]) == pytest.approx(1.7)
    assert line([8, 12, 30], [0.5 + 0.25 * each for each in (8, 12, 30)]) == pytest.approx(
        (0.25, 0.5)
    )


def test_tokens_are_those_of_text_image_and_references():
    assert Load((768, 1024), 2, 8).tokens == 512 + 48 * 64 + 2 * 32 * 32


def test_each_sweep_is_fitted_alone():
    sizes = [Load((side, side), 0, 8) for side in (768, 1024)]
    references = [Load((768, 768), count, 8) for count in (0, 1)]
    steps = [Load((768, 768), 0, count) for count in (8, 16)]
    seconds = {load: load.steps * load.tokens**2 / 1e6 for load in (*sizes, *references, *steps)}
    facts = growth({"image tokens": sizes, "references": references, "steps": steps}, seconds)
    assert facts["exponent, image tokens"] == facts["exponent, references"] == 2
    assert facts["seconds per further step"] == np.round(2816**2 / 1e6, 4)
    assert facts["seconds without a step"] == pytest.approx(0)


def test_the_report_has_a_line_for_every_value(tmp_path, fused):
    bundle = fused("v1.1", True)
    run(tmp_path, device="cpu", weights=bundle, repeats=1, size=(128, 64), steps=(1, 2))
    report = json.loads((tmp_path / "scale.json").read_text())
    assert [(row["what"], row["tokens"]) for row in report["rows"]] == [
        ("128 x 64", 544),
        ("0 references", 544),
        ("1 reference", 1568),
        ("2 references", 2592),
        ("1 steps", 544),
        ("2 steps", 544),
    ]
    assert all(row["s denoising"] > 0 for row in report["rows"])
    assert "exponent, references" in report
    assert "exponent, image tokens" not in report  # one size has none
    assert report["command"] == (
        "script/bench scale --device cpu --weights v1.1-True --speed exact --repeats 1 "
        "--size 128,64"
    )
    for plot in ("scale", "scale-tokens", "scale-steps"):
        drawing = ElementTree.parse(tmp_path / f"{plot}.svg").getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
