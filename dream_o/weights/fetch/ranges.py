"""A file on a server, read in ranges over several connections, again where one breaks."""

import threading
import time
from collections.abc import Callable, Iterator

from dream_o.weights.fetch.hub import Found, Question, headers_for
from dream_o.weights.fetch.part import Part

ATTEMPTS = 6  # that bring no byte, of one range, before the download is given up
LONGEST_WAIT = 8.0  # seconds between two of them
WRITTEN = 1 << 20  # bytes written at once


class RangesRefusedError(Exception):
    """The server answered with the whole file where a part of it was asked for."""


class StoppedError(Exception):
    """Another file's failure, or the user, has ended the download."""


class Source:
    """A file on a server, and the part of it that is here."""

    def __init__(self, ask: Question, found: Found, part: Part) -> None:
        self.ask = ask
        self.found = found
        self.part = part
        self.in_one_piece = threading.Lock()
        self.ranges_refused = False

    def read(self, start: int, stop: threading.Event, progress: Callable[[int], object]) -> None:
        """Reads what a chunk lacks, over as many connections as it takes.

        The first chunk that the server answers with the whole file reads all of it; the others
        wait, and find that nothing is missing.
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
        """The bytes that the server sends, no more than expected; ConnectionError for fewer."""
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
                response.read()  # what the sentence about the refusal is made from
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
        raise ConnectionError("the server ended the answer too early")

    def _retry_or_raise(self, error: Exception, attempts: int, stop: threading.Event) -> None:
        """Waits, for an error that may pass; raises it again otherwise."""
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
    """The blocks joined to about WRITTEN bytes; also what came before an error.

    The connection gives 64 KiB at a time, and threads that write and count each of them spend
    their time waiting for one another.
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
