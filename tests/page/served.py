"""The page on a free port of this machine, in a thread of the tests' process."""

import os
import socket
import threading
import time
from types import TracebackType

import uvicorn

from dream_o.page.app import create_app
from dream_o.page.desk import Desk

KEY = "a-key-of-the-tests"


class Served:
    """A running page.

    Attributes:
        desk: what answers.
        url: where the page is.
        uploads: where it keeps uploads.
        blocks: Gradio's page.
    """

    def __init__(self, desk: Desk, **options) -> None:
        self.desk = desk
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        app = create_app(desk, address=f"{self.url}/", host="127.0.0.1", **options)
        # Pages that are open keep a connection, which would delay the end.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.server.should_exit = True
        self.thread.join(20)
