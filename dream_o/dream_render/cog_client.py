"""Sends predictions to a Cog server."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx

from dream_o.dream_render.form_body import FormError
from dream_o.server.health import ANSWER_SECONDS, SERVING

RETRY_AFTER_SECONDS = 5
# Cog stays busy for a moment after it has answered: seconds to wait before each new attempt.
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.0)
# Cog's status codes while it is busy (409) and while setup runs or after it failed (503).
NOT_NOW = (409, 503)
# States of Cog's health check that last until a restart, and what to tell the client.
NEVER = {
    "SETUP_FAILED": "the image server could not start; its log says why",
    "DEFUNCT": "the image server has stopped; its log says why",
    "UNHEALTHY": "the image server has lost its worker; restart it",
}


async def predict(cog: httpx.AsyncClient, inputs: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Sends the inputs to the Cog server and returns the finished prediction, whose ID is `name`.

    Raises:
        FormError: 502 if the server is unreachable, could not start or gave an invalid answer, 503
            if it is busy or still starting.
    """
    # Outside the try block, because an error here is not the server's. JSON escapes
    # all characters beyond ASCII.
    body = json.dumps({"id": name, "input": dict(inputs)}).encode("ascii")
    headers = {"Content-Type": "application/json"}
    try:
        for pause in PAUSES:
            answer = await cog.post("/predictions", content=body, headers=headers)
            if answer.status_code not in NOT_NOW:
                break
            await asyncio.sleep(pause)
        else:
            raise await _not_now(cog)
        prediction = answer.json()
        if answer.status_code == 422:
            return {"status": "failed", "error": _validation_error(prediction)}
        if prediction["status"] not in ("succeeded", "failed", "canceled"):
            raise ValueError(prediction["status"])
    except httpx.HTTPError as error:
        raise FormError(502, "the image server is not reachable") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FormError(502, "the image server gave an answer that is not a prediction") from error
    found: dict[str, Any] = prediction
    return found


async def _not_now(cog: httpx.AsyncClient) -> FormError:
    """The error for a server that is busy, still starting, or unusable until a restart."""
    state = (await cog.get("/health-check")).json()["status"]
    if state in NEVER:
        return FormError(502, NEVER[state])
    doing = "still starting" if state == "STARTING" else "busy with another request"
    return FormError(
        503, f"the server is {doing}; try again", {"Retry-After": str(RETRY_AFTER_SECONDS)}
    )


async def is_ready(cog: httpx.AsyncClient) -> bool:
    """Whether the server takes requests."""
    try:
        state = (await cog.get("/health-check", timeout=ANSWER_SECONDS)).json()["status"]
        return state in SERVING
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


def _validation_error(answer: Mapping[str, Any]) -> str:
    """The first of Cog's schema errors as one sentence that begins with the field."""
    detail = answer["detail"]
    if isinstance(detail, str):
        return detail
    return f"{detail[0]['loc'][-1]}: {detail[0]['msg']}"
