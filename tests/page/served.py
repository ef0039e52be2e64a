"""The page on a free port of this machine, in a thread of the tests' process."""

import functools
import json
import os
import socket
import threading
import time
from types import TracebackType

import httpx
import uvicorn

from dream_o.page.desk import Desk

KEY = "a-key-of-the-tests"
SMALL = {"width": 768, "height": 768, "num_steps": 8, "seed": "5"}


class Served:
    """A running page.

    Attributes:
        desk: the models and results of the page.
        url: the address of the page.
        uploads: the folder of uploads.
        blocks: Gradio's page.
    """

    def __init__(self, desk: Desk, **options) -> None:
        # Imported here, and in the tests of this folder: every process collects these tests but
        # only one runs them, and importing Gradio takes seconds.
        from dream_o.page.app import create_app

        self.desk = desk
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        app = create_app(desk, address=f"{self.url}/", host="127.0.0.1", **options)
        # Open pages keep a connection, for which uvicorn would wait at the end.
        config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=0)
        self.server = uvicorn.Server(config)
        self.blocks = app.routes[-1].app.get_blocks()
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> "Served":
        self.thread.start()
        end = time.monotonic() + 60
        while not self.server.started and time.monotonic() < end:
            time.sleep(0.02)
        self.uploads = os.environ["GRADIO_TEMP_DIR"]
        return self

    def forget_uploads(self) -> None:
        """Deletes the uploads that no page refers to, as Gradio does from time to time."""
        from gradio.route_utils import delete_files_created_by_app

        delete_files_created_by_app(self.blocks, -1)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.server.should_exit = True
        self.thread.join(20)


def until(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask(url, inputs):
    """Asks `/generate` over plain HTTP; returns the last event and its data."""
    names = [each["parameter_name"] for each in parameters(url)]
    defaults = {each["parameter_name"]: each["parameter_default"] for each in parameters(url)}
    data = [{**defaults, **SMALL, **inputs}[name] for name in names]
    started = httpx.post(f"{url}/gradio_api/call/generate", json={"data": data}).json()
    answer = httpx.get(f"{url}/gradio_api/call/generate/{started['event_id']}", timeout=120)
    event, data = answer.text.strip().split("\n\n")[-1].split("\n")[:2]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@functools.cache
def parameters(url):
    info = httpx.get(f"{url}/gradio_api/info").json()
    return info["named_endpoints"]["/generate"]["parameters"]
