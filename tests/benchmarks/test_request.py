"""The request benchmark: what it sends, how it splits the time, and a run with a real server."""

import io
import json
from contextlib import contextmanager

import pytest
from PIL import Image

from benchmarks import request
from benchmarks.__main__ import main
from benchmarks.held_out import held_out_requests
from benchmarks.request import request_inputs, split
from benchmarks.server import serving
from dream_o.errors import UserError
from tests.server.client import decoded


def test_both_images_are_sent_with_their_tasks(tmp_path):
    inputs = request_inputs(held_out_requests(tmp_path, 5, 768, 8)[4])
    assert (inputs["ref_task1"], inputs["ref_task2"]) == ("id", "ip")
    assert (inputs["width"], inputs["height"], inputs["num_steps"]) == (768, 768, 8)
    pictures = [decoded(inputs[f"ref_image{slot}"]) for slot in (1, 2)]
    assert pictures[0] != pictures[1]
    for mime, content in pictures:
        assert mime == "image/png"
        assert Image.open(io.BytesIO(content)).format == "PNG"


def test_what_is_left_of_the_whole_is_outside():
    stages = {"prompt": 0.25, "references": 0.5, "denoising": 4, "decoding": 2, "encoding": 0.125}
    parts = split({"metrics": {"seconds": stages}}, 7.5)
    assert parts == {"whole": 7.5, **stages, "outside": 1.5}


REFUSED = (
    "^the server refused the request: height: 512 is less than the minimum of 768.0; "
    "width: 512 is less than the minimum of 768.0$"
)


@contextmanager
def serving_and_refusing(environment):
    """The benchmark's server; after its requests it gets one that it refuses."""
    with serving(environment) as server:
        yield server
        with pytest.raises(UserError, match=REFUSED):
            server.predict({"prompt": "a hill", "width": 512, "height": 512})


def test_the_server_is_measured_cold_and_repeated_and_a_refusal_is_told(
    tmp_path, quick_bundle, monkeypatch
):
    monkeypatch.setattr(request, "serving", serving_and_refusing)
    arguments = ["--weights", str(quick_bundle), "--device", "cpu", "--formats", "jpg"]
    report = ["--repeats", "1", "--output", str(tmp_path)]
    assert main(["request", *arguments, *report]) == 0
    cold, repeated = json.loads((tmp_path / "request.json").read_text())["rows"]
    assert (cold["request"], repeated["request"]) == ("jpg, cold", "jpg, repeated")
    for row in (cold, repeated):
        inside = sum(row[name] for name in ("prompt", "references", "encoding"))
        assert 0 < inside <= row["outside"] + 0.2  # each is rounded
        assert row["outside"] < row["whole"]
    assert str(quick_bundle.parent) not in (tmp_path / "request.md").read_text()
