"""Waits for one webhook and saves its image: `python examples/receive_webhook.py PORT FILE`."""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from save_output import save_output


class Receiver(BaseHTTPRequestHandler):
    """Answers 200 and keeps what was posted in `received`."""

    received: bytes = b""

    def do_POST(self) -> None:
        Receiver.received = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()


if __name__ == "__main__":
    HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).handle_request()
    save_output(json.loads(Receiver.received), Path(sys.argv[2]))
