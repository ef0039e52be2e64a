"""The line that each request leaves in the server's log."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dream_o.errors import UserError
from dream_o.server import request_log
from dream_o.service.request import Request
from tests.requests_table import encoded, picture
from tests.server.client import CogServer, small, steps_done, until

SECRET = "a lighthouse that nobody may read of"


def line_of(server: CogServer, name: str) -> dict[str, Any]:
    """The request's line, which Cog's server gives the prediction's ID."""

    def found() -> list[dict[str, Any]]:
        lines = [each for each in server.log.read_text().splitlines() if name in each]
        messages = [
            fields["message"]
            for fields in (json.loads(line)["fields"] for line in lines)
            if fields.get("prediction_id") == name
        ]
        return [json.loads(each) for each in messages if each.startswith('{"event"')]

    (entry,) = until(found, "the request's line")
    return entry


def put(server: CogServer, name: str, **inputs: Any) -> Any:
    server.idle()
    body = {"input": small(inputs | {"prompt": SECRET})}
    return server.call("PUT", f"/predictions/{name}", body).body


def test_an_image_leaves_its_seed_seconds_and_bytes_and_no_prompt(server: CogServer) -> None:
    reference = encoded(picture())
    answer = put(server, "logged-1", ref_image1=reference, ref_task1="style", seed=77)
    entry = line_of(server, "logged-1")
    assert entry["outcome"] == "succeeded"
    assert (entry["seed"], entry["num_steps"], entry["width"]) == (77, 8, 768)
    assert entry["bytes_in"] == len(reference)
    assert entry["bytes_out"] > 1000
    told = answer["metrics"]
    seconds = told.get("seconds") or {
        name.removeprefix("seconds."): value for name, value in told.items() if "seconds." in name
    }
    assert entry["seconds"] == seconds
    assert entry["seconds_total"] >= seconds["encoding"]
    assert SECRET not in server.log.read_text()


def test_a_refused_and_a_cancelled_request_leave_their_outcome(server: CogServer) -> None:
    put(server, "logged-2", width=770)
    entry = line_of(server, "logged-2")
    assert (entry["outcome"], entry["input"]) == ("failed", "width")
    path = server.start("/predictions/logged-3")
    until(lambda: steps_done(server.state(path)["logs"]) >= 1, "a step")
    server.call("POST", f"{path}/cancel")
    assert line_of(server, "logged-3")["outcome"] == "canceled"
    server.idle()


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """The lines of requests that are answered here as in Cog's worker."""
    coglet = SimpleNamespace(
        server=SimpleNamespace(active=True),
        CancelationException=request_log.coglet.CancelationException,
    )
    monkeypatch.setattr(request_log, "coglet", coglet)
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    caplog.set_level(logging.INFO, "dream_o")
    return lambda: [json.loads(each) for each in caplog.messages if each.startswith('{"event"')]


@pytest.mark.parametrize("asked", [True, False])
def test_prompts_are_in_the_line_when_asked_for(entries: Any, asked: bool) -> None:
    with request_log.logged_request(Request(SECRET, neg_prompt="fog"), asked):
        pass
    (entry,) = entries()
    assert entry.get("prompt") == (SECRET if asked else None)
    assert entry.get("neg_prompt") == ("fog" if asked else None)


def test_another_error_leaves_its_kind_and_not_its_words(entries: Any) -> None:
    with pytest.raises(UserError), request_log.logged_request(Request(SECRET), False):
        raise UserError(f"out of memory for {SECRET}")
    (entry,) = entries()
    assert (entry["outcome"], entry["error"]) == ("failed", "UserError")
    assert SECRET not in json.dumps(entry)


def test_outside_the_server_no_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with request_log.logged_request(Request("a hill"), False):
        pass
    assert not caplog.messages
