"""The line that each request leaves in the server's log."""

import json
from typing import Any

from tests.requests_table import encoded, picture
from tests.server.client import CogServer, until

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
    body = server.long(inputs | {"num_steps": 8, "prompt": SECRET})
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
    until(lambda: "1/30" in server.state(path)["logs"], "a step")
    server.call("POST", f"{path}/cancel")
    assert line_of(server, "logged-3")["outcome"] == "canceled"
    server.idle()
