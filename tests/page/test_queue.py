"""Requests in the queue: their order, cancelling them, and their uploads."""

import json
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from dream_o.errors import InputError
from dream_o.library_internals import queued_inputs
from dream_o.service.result import Result
from tests.page.served import SMALL, parameters, until


def join(page, prompt, tab, **inputs):
    """Requests an image for a browser tab, without waiting for it."""
    names = [each["parameter_name"] for each in parameters(page.url)]
    defaults = {each["parameter_name"]: each["parameter_default"] for each in parameters(page.url)}
    values = {**defaults, **SMALL, "prompt": prompt, **inputs}
    return send(page, "queue/join", tab, "api_name", "generate", [values[name] for name in names])


def send(page, route, tab, name, value, data=()):
    """Triggers the event in the page's configuration whose entry `name` has this value."""
    (event,) = (each for each in page.config["dependencies"] if each[name] == value)
    body = {"data": list(data), "fn_index": event["id"], "session_hash": tab}
    answer = httpx.post(f"{page.url}/gradio_api/{route}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(page, tab):
    """The messages that a browser tab gets until no request of it is left in the queue."""
    address = f"{page.url}/gradio_api/queue/data"
    answer = httpx.get(address, params={"session_hash": tab}, timeout=120)
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.fixture
def line(page, monkeypatch):
    """Makes requests wait until `go` is set; `prompts` has the answered ones in order."""

    class Line:
        go, prompts = threading.Event(), []

    def generate(request, on_step=None):
        Line.go.wait(60)
        Line.prompts.append(request.prompt)
        image = Image.new("RGB", (request.width, request.height), "teal")
        return Result(image, {"prompt": request.prompt, "seed": request.seed}, {"steps": 8})

    monkeypatch.setattr(page.desk.dream_o, "generate", generate)
    page.config = httpx.get(f"{page.url}/config").json()
    yield Line
    Line.go.set()


def waiting(page):
    """The number of requests in Gradio's queue, which the page does not show."""
    return len(page.blocks._queue)


def cancel(page, tab):
    (button,) = (
        each["id"] for each in page.config["components"] if each["props"].get("elem_id") == "cancel"
    )
    return send(page, "run/predict", tab, "targets", [[button, "click"]])


def test_a_request_that_is_cancelled_leaves_the_queue(page, line):
    tabs = [secrets.token_hex(4) for _ in range(4)]
    for tab in tabs:
        join(page, f"hill {tab}", tab)
    until(lambda: waiting(page) == 3)
    answer = cancel(page, tabs[2])
    assert "cancelled; " in str(answer["data"])
    assert waiting(page) == 2
    (*_, ended) = (each for each in told(page, tabs[2]) if each["msg"] == "process_completed")
    assert ended["success"]
    line.go.set()
    for tab in (tabs[0], tabs[1], tabs[3]):
        told(page, tab)
    assert line.prompts == [f"hill {tab}" for tab in (tabs[0], tabs[1], tabs[3])]


def test_cancelling_keeps_the_previews_of_references_in_the_queue(page, line, hill, monkeypatch):
    def prepare(*_):
        line.go.wait(60)
        raise InputError("ref_image1", "was looked at")

    monkeypatch.setattr(page.desk, "prepare", prepare)
    files = {"files": ("hill.png", hill.read_bytes())}
    path = httpx.post(f"{page.url}/gradio_api/upload", files=files).json()[0]
    values = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "ip", 512]
    ids = {each["props"].get("elem_id"): each["id"] for each in page.config["components"]}
    targets = [
        [ids["reference-1"], "change"],
        [ids["task-1"], "change"],
        [ids["input-ref_res"], "release"],
    ]
    for tab in ("other", "mine"):
        send(page, "queue/join", tab, "targets", targets, values)
        join(page, f"hill {tab}", tab)
    until(lambda: waiting(page) == 2)
    assert "cancelled; " in str(cancel(page, "mine")["data"])
    assert waiting(page) == 1
    line.go.set()
    assert "was looked at" in str(told(page, "mine"))
    told(page, "other")
    assert line.prompts == ["hill other"]


def test_cancelling_affects_only_the_tabs_own_requests(page, line):
    join(page, "a hill", "one")
    join(page, "a hut", "two")
    until(lambda: waiting(page) == 1)
    answer = cancel(page, "three")
    assert "cancelled" not in str(answer["data"])
    assert waiting(page) == 1
    line.go.set()
    told(page, "two")
    assert line.prompts == ["a hill", "a hut"]


def test_an_upload_stays_while_a_request_waits_for_it(page, line, hill):
    """Gradio deletes uploads after an hour; a request can wait longer."""
    files = {"files": ("hill.png", hill.read_bytes())}
    sent = [
        Path(
            httpx.post(
                f"{page.url}/gradio_api/upload", files=files | {"files": (name, body)}
            ).json()[0]
        )
        for name, body in (("a.png", b"used"), ("b.png", b"not used"))
    ]
    named = {"path": str(sent[0]), "meta": {"_type": "gradio.FileData"}}
    join(page, "first", "one")
    until(lambda: waiting(page) == 0)
    join(page, "second", "two", ref_image1=named)
    until(lambda: waiting(page) == 1)
    page.forget_uploads()
    assert [each.exists() for each in sent] == [True, False]
    line.go.set()
    told(page, "two")
    page.forget_uploads()
    assert not sent[0].exists()


def test_twenty_users_are_answered_in_the_order_in_which_they_came(page, line):
    tabs = [secrets.token_hex(4) for _ in range(20)]
    for tab in tabs:
        join(page, f"hill {tab}", tab)
    until(lambda: waiting(page) == 19)
    with ThreadPoolExecutor(20) as users:
        answers = [users.submit(told, page, tab) for tab in tabs]
        line.go.set()
        for each in answers:
            ended = each.result()[-2:]
            assert [event["msg"] for event in ended] == ["process_completed", "close_stream"]
            assert ended[0]["success"]
    assert line.prompts == [f"hill {tab}" for tab in tabs]
    assert waiting(page) == 0
    assert queued_inputs(page.blocks) == []
    assert not any(page.desk.runs.has(tab) for tab in tabs)
    assert list(Path(page.uploads).glob("held-*")) == []
