"""Reads a file from a server in ranges over several connections, and retries broken ones."""

import threading
import time
from collections.abc import Callable, Iterator

from dream_o.weights.fetch.hub import Found, Question, headers_for
from dream_o.weights.fetch.part import Part

ATTEMPTS = 6  # attempts in a row without a new byte of a range, after which the download fails
LONGEST_WAIT = 8.0  # seconds between two attempts
WRITTEN = 1 << 20  # bytes written at once


class RangesRefusedError(Exception):
    """The server sent the whole file although a range was requested."""


class StoppedError(Exception):
    """The download has ended because another file failed or the user stopped it."""


class Source:
    """A file on a server, and its `Part` on the disk."""

    def __init__(self, ask: Question, found: Found, part: Part) -> None:
        self.ask = ask
        self.found = found
        self.part = part
        self.in_one_piece = threading.Lock()
        self.ranges_refused = False

    def read(self, start: int, stop: threading.Event, progress: Callable[[int], object]) -> None:
        """Reads the missing bytes of a chunk, with as many requests as it takes.

        If the server ignores ranges, the first chunk to notice reads the whole file; the others
        wait and then find nothing missing.
        """
        try:
            self._read_chunk(start, stop, progress)
        except RangesRefusedError:
            with self.in_one_piece:
                if not self.ranges_refused:
                    self.ranges_refused = True
                    self._read_whole(stop, progress)

    def _read_chunk(
        self, start: int, stop: threading.Event, progress: Callable[[int], object]
    ) -> None:
        attempts = 0
        begin, end = self.part.missing(start)
        while begin < end:
            if self.ranges_refused:
                raise RangesRefusedError
            try:
                self._read_range(start, stop, progress)
            except RangesRefusedError:
                raise
            except Exception as error:
                attempts = 0 if self.part.missing(start)[0] > begin else attempts + 1
                self._retry_or_raise(error, attempts, stop)
            begin, end = self.part.missing(start)

    def _read_range(
        self, start: int, stop: threading.Event, progress: Callable[[int], object]
    ) -> None:
        begin, end = self.part.missing(start)
        asked = "" if (begin, end) == (0, self.part.size) else f"bytes={begin}-"
        if asked and end < self.part.size:
            asked += str(end - 1)
        for block in self._blocks(asked, end - begin, stop):
            self.part.write(start, block)
            progress(len(block))

    def _read_whole(self, stop: threading.Event, progress: Callable[[int], object]) -> None:
        progress(-self.part.held)
        self.part.forget()
        attempts = 0
        while self.part.pending():
            offset = 0
            try:
                for block in self._blocks("", self.part.size, stop):
                    self.part.write_anew(offset, block)
                    progress(len(block))
                    offset += len(block)
            except Exception as error:
                progress(-offset)
                attempts += 1
                self._retry_or_raise(error, attempts, stop)

    def _blocks(self, asked: str, expected: int, stop: threading.Event) -> Iterator[bytes]:
        """Yields at most `expected` bytes of a response; ConnectionError if it ends early."""
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session, hf_raise_for_status

        url = self.found.url
        headers = headers_for(url) | {"Accept-Encoding": "identity"}
        if asked:
            headers["Range"] = asked
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream(
            "GET", url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response:
            if response.is_error:
                response.read()  # the error message is made from the body
            hf_raise_for_status(response)
            if asked and response.status_code != 206:
                raise RangesRefusedError
            for block in _gathered(response.iter_raw()):
                if stop.is_set():
                    raise StoppedError
                yield block[:expected]
                expected -= len(block)
                if expected <= 0:
                    return
        raise ConnectionError("the response ended too early")

    def _retry_or_raise(self, error: Exception, attempts: int, stop: threading.Event) -> None:
        """Waits before the next attempt if the error is temporary; otherwise raises it again."""
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        if stop.is_set():
            raise StoppedError from None
        passing = isinstance(error, httpx2.TransportError | ConnectionError)
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            expired = status in (401, 403, 410)
            passing = status in (408, 429) or status >= 500 or expired
            if expired and attempts < ATTEMPTS:
                self.found = self.ask()
        if not passing or attempts >= ATTEMPTS:
            raise error
        time.sleep(min(2.0 ** (attempts - 1), LONGEST_WAIT) if attempts else 0)


def _gathered(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Joins blocks to about WRITTEN bytes; yields what was read before it raises an error.

    A connection returns 64 KiB at a time. If the threads wrote and counted each block, they would
    spend their time waiting for one another.
    """
    held: list[bytes] = []
    size = 0
    try:
        for block in blocks:
            held.append(block)
            size += len(block)
            if size >= WRITTEN:
                yield b"".join(held)
                held, size = [], 0
    except Exception:
        yield b"".join(held)
        raise
    if held:
        yield b"".join(held)
