"""Requests that the real Cog server refuses, and the sentence that the caller gets."""

import re
import tempfile
from datetime import UTC, datetime
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from tests import ROOT
from tests.conftest import PARITY
from tests.drawings import drawn_face
from tests.requests_table import REFUSED, bomb, encoded, picture
from tests.server.client import steps_done, until

# What Cog puts before the message of an exception in predict().
PREFIX = "Prediction failed: Prediction failed: "


def sentence(prediction):
    assert prediction["status"] == "failed", prediction
    assert "output" not in prediction
    text = prediction["logs"] + prediction["error"]
    assert "Traceback" not in text
    assert not any(path in text for path in (str(ROOT), tempfile.gettempdir(), "/etc", ".py"))
    assert prediction["error"].startswith(PREFIX)
    kind, _, error = prediction["error"].removeprefix(PREFIX).partition(": ")
    assert kind == "InputError"
    assert "\n" not in error
    return error


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_a_bad_request_fails_with_one_sentence(server, row):
    assert sentence(server.predict(**row.inputs)) == row.error


LOCAL = [
    "/etc/passwd",
    "file:///etc/passwd",
    str(PARITY / "refs" / "ref_a.png"),
    f"file://{PARITY / 'refs' / 'ref_a.png'}",
    "refs/ref_a.png",
    "",
]


@pytest.mark.parametrize("value", LOCAL, ids=range(len(LOCAL)))
def test_a_file_of_the_server_is_not_opened(server, value):
    error = sentence(server.predict(ref_image1=value, ref_task1="style"))
    assert error == "ref_image1: send an upload, a data URL or an http(s) URL, not a local path"


def test_an_image_that_cannot_be_fetched_leaves_nothing(server, hooks):
    for address in (f"{hooks.url}/missing.png", "http://127.0.0.1:1/refused.png"):
        failed = server.predict(ref_image1=encoded(picture()), ref_image2=address)
        assert failed["status"] == "failed"
        assert "Traceback" not in failed["logs"] + failed["error"]
        assert server.predict()["status"] == "succeeded"
        until(lambda: not server.temporary_files(), "the files to go")


def test_the_next_request_works(server):
    assert server.predict(width=770)["status"] == "failed"
    assert server.predict(ref_image1=b"no image")["status"] == "failed"
    assert server.predict()["status"] == "succeeded"


def test_a_bomb_is_refused_before_its_pixels_are_decoded(server):
    server.predict(ref_image1=b"")
    grown = server.peak_kilobytes(lambda: server.predict(ref_image1=bomb()))
    assert grown < 200_000


def test_the_face_nearest_the_centre_is_used_and_the_log_counts_them(server):
    wall = picture(size=(620, 500))
    face = Image.fromarray(drawn_face())
    wall.paste(face, (10, 122))
    wall.paste(face, (330, 122))
    prediction = server.predict(ref_image1=encoded(wall), ref_task1="id")
    assert prediction["status"] == "succeeded", prediction["error"]
    assert "2 faces found" in prediction["logs"]


SCHEMA_VIOLATIONS = [
    ("prompt", 5),
    ("ref_image1", 5),
    ("ref_task1", "face"),
    ("ref_image2", {}),
    ("ref_task2", ""),
    ("width", 752),
    ("width", 1040),
    ("width", "768"),
    ("height", 752),
    ("height", 1040),
    ("num_steps", 7),
    ("num_steps", 31),
    ("num_steps", 8.5),
    ("guidance", 0.9),
    ("guidance", 10.1),
    ("seed", "1"),
    ("seed", None),
    ("ref_res", 255),
    ("ref_res", 1025),
    ("neg_prompt", False),
    ("neg_guidance", 0),
    ("neg_guidance", 11),
    ("true_cfg", 0.5),
    ("true_cfg", 5.5),
    ("cfg_start_step", -1),
    ("cfg_start_step", 31),
    ("cfg_end_step", -1),
    ("cfg_end_step", 31),
    ("first_step_guidance", -0.1),
    ("first_step_guidance", 10.5),
    ("output_format", "gif"),
    ("output_quality", 0),
    ("output_quality", 101),
]


@pytest.mark.parametrize(("name", "value"), SCHEMA_VIOLATIONS)
def test_what_the_schema_forbids_is_a_422_that_names_the_field(server, name, value):
    answer = server.call("POST", "/predictions", {"input": {"prompt": "a hill", name: value}})
    assert answer.status == 422
    assert [problem["loc"] for problem in answer.body["detail"]] == [["body", "input", name]]


def test_a_missing_prompt_is_a_422_that_names_it(server):
    answer = server.call("POST", "/predictions", {"input": {}})
    assert answer.status == 422
    assert answer.body["detail"][0]["loc"] == ["body", "input", "prompt"]


def test_a_second_request_during_a_prediction_is_a_409(server):
    path = server.start()
    try:
        assert server.call("POST", "/predictions", server.long()).status == 409
    finally:
        server.call("POST", f"{path}/cancel")
        server.idle()


def test_a_cancelled_prediction_ends_within_a_step_and_the_next_one_works(server, hooks):
    path = "/predictions/cancelled"
    body = server.long() | {
        "webhook": f"{hooks.url}/hook",
        "webhook_events_filter": ["completed"],
    }
    assert server.call("PUT", path, body, {"Prefer": "respond-async"}).status == 202
    until(lambda: steps_done(server.state(path)["logs"]) >= 2, "two steps")
    assert server.call("POST", f"{path}/cancel").status == 200
    cancelled = datetime.now(UTC)
    (completed,) = until(lambda: hooks.events("/hook"), "the webhook")
    assert completed["status"] == "canceled"
    assert "output" not in completed
    # The step that was under way may still end.
    assert steps_done(completed["logs"]) <= server.steps_logged(path, cancelled) + 1
    server.idle()
    assert server.predict()["status"] == "succeeded"


def test_an_unknown_prediction_cannot_be_cancelled(server):
    assert server.call("POST", "/predictions/nobody/cancel").status == 404


def test_a_broken_body_is_a_400(server):
    request = Request(f"{server.url}/predictions", b"{", {"Content-Type": "application/json"})
    with pytest.raises(HTTPError) as failure:
        urlopen(request)
    assert failure.value.code == 400
    assert not re.search("panick", server.log.read_text())
