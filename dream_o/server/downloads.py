"""Bounds on the references that Cog's worker downloads."""

import tempfile
import threading
import time
from pathlib import Path as FilePath
from typing import IO, Any

import cog

from dream_o.errors import UserError, disk_problem

DOWNLOAD_SECONDS = 60.0
MAX_DOWNLOAD_BYTES = 100_000_000
PIECE_BYTES = 1 << 16


def bound_downloads() -> None:
    """Makes Cog give up on a file that is too large or arrives too slowly.

    Cog 0.23.1 waits 10 s for each piece of a file, however many pieces there are, and does not
    limit their number. `URLPath.convert` is what it calls for each file of a request.
    """
    cog.URLPath.convert = _convert


def _convert(source: Any) -> cog.Path:
    """Downloads the file that `source`, a `cog.URLPath`, stands for; returns its path.

    Raises:
        UserError: the file is too large, or is not complete in time.
    """
    # Imports torch, which reading the inputs need not wait for.
    from dream_o.library_internals import downloaded_path, set_downloaded_path

    if downloaded_path(source) is None:
        download = _Download(source)
        download.start()
        download.join(DOWNLOAD_SECONDS)
        set_downloaded_path(source, download.result())
    path: cog.Path = downloaded_path(source)
    return path


class _Download(threading.Thread):
    """A download that its caller can leave: it then deletes what it has written."""

    def __init__(self, source: Any) -> None:
        super().__init__(daemon=True)
        self.source = source
        self.deadline = time.monotonic() + DOWNLOAD_SECONDS
        self.path: cog.Path | None = None
        self.error: Exception | None = None

    def result(self) -> cog.Path:
        if self.error is not None:
            raise self.error
        if self.path is None:
            raise _too_slow()
        return self.path

    def run(self) -> None:
        try:
            # The file is made when the first piece is there, so that a silent sender costs none.
            piece = self._next_piece()
            with tempfile.NamedTemporaryFile(suffix=self.source.filename, delete=False) as file:
                try:
                    self._write(piece, file)
                except BaseException:
                    FilePath(file.name).unlink(missing_ok=True)
                    raise
            self.path = cog.Path(file.name)
        except Exception as error:
            self.error = error

    def _write(self, piece: bytes, file: IO[bytes]) -> None:
        while piece:
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                raise _not_kept(error) from error
            if file.tell() > MAX_DOWNLOAD_BYTES:
                raise UserError(
                    f"a reference is larger than {MAX_DOWNLOAD_BYTES // 1_000_000} MB; send a "
                    "smaller file"
                )
            piece = self._next_piece()

    def _next_piece(self) -> bytes:
        # read1 returns what has arrived; read would wait for a whole piece.
        piece: bytes = self.source.fileobj.read1(PIECE_BYTES)
        if time.monotonic() > self.deadline:
            raise _too_slow()
        return piece


def _not_kept(error: OSError) -> UserError:
    return UserError(f"a reference cannot be saved: {disk_problem(error)}")


def _too_slow() -> UserError:
    return UserError(
        f"a reference did not arrive within {DOWNLOAD_SECONDS:g} seconds; send it as a data URL, "
        "or from a faster server"
    )
