"""The form endpoint for its tests, in front of a server that answers as it is told."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import uvicorn

from dream_o.dream_render.form_api import PREDICTOR
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import load_predictor

KEY = "a-key-of-the-tests"
PNG = b"\x89PNG and so on"
DOCUMENT = openapi_document(type(load_predictor(PREDICTOR)))
# The fields of the documented request, as they arrive.
FORM = {
    "dev_key": KEY,
    "model": "miniature",
    "prompt": "shoe",
    "width": "512",
    "height": "512",
    "seed": "-1",
    "styles": "None",
    "cfg_scale": "7",
    "steps": "30",
    "enable_hr": "False",
    "negative_prompt": "",
    "prompt_temp": "0.8",
    "prompt_top_p": "0.9",
    "designer": "False",
    "enhance_prompt": "True",
}
TYPED = {
    "dev_key": KEY,
    "model": "miniature",
    "prompt": "shoe",
    "width": 512,
    "height": 512,
    "seed": -1,
    "styles": "None",
    "cfg_scale": 7.0,
    "steps": 30,
    "enable_hr": False,
    "negative_prompt": "",
    "prompt_temp": 0.8,
    "prompt_top_p": 0.9,
    "designer": False,
    "enhance_prompt": True,
}


class Cog:
    """Stands for the Cog server: answers as told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.inputs: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.answer: Callable[[], httpx.Response] = self.image
        self.health: Any = "BUSY"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health-check":
            return httpx.Response(200, json={"status": self.health})
        assert (request.method, request.url.path) == ("POST", "/predictions")
        sent = json.loads(request.content)
        self.inputs.append(sent["input"])
        self.ids.append(sent["id"])
        return self.answer()

    @staticmethod
    def image(kind: str = "image/png") -> httpx.Response:
        url = f"data:{kind};base64,{base64.b64encode(PNG).decode()}"
        metrics = {"seed": 2**62 + 1, "seconds": {"paint": 1.5, "prompt": 0.25}}
        return httpx.Response(200, json={"status": "succeeded", "output": url, "metrics": metrics})

    def fails(self, error: str) -> None:
        self.answer = lambda: httpx.Response(200, json={"status": "failed", "error": error})

    def says(self, status: int, **content: Any) -> None:
        self.answer = lambda: httpx.Response(status, **content)


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Runs an ASGI application on a free port of the loopback, with uvicorn's `options`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def multipart(fields: dict[str, str]) -> dict[str, Any]:
    return {"files": {name: (None, value) for name, value in fields.items()}}


def refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (error,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert KEY not in error
    return error
