"""A file during its download: chunks arrive in any order, and a killed process loses few bytes."""

import hashlib
import os
import struct
import threading
from pathlib import Path
from typing import Self

CHUNK = 32 << 20  # bytes that one connection fetches at a time
RECORDED = 4 << 20  # bytes of a chunk between two journal records
HASHED = 4 << 20  # bytes hashed at once
_RECORD = struct.Struct("<QQ")


class Part:
    """An unfinished file of a known size, and a journal of the bytes that it already has.

    Several threads write the file, each a chunk from its start to its end. The journal is a second
    file of records (start of a chunk, number of its bytes that are written). A killed process loses
    at most RECORDED bytes of each chunk. After a power failure, bytes in the journal can be missing
    from the file; the digest of the whole file reveals this.

    Use it as a context manager, which opens and closes the files. Methods raise OSError if the disk
    fails.

    Args:
        path: the file; the journal has the same name with another suffix.
        size: the size of the whole file in bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.journal = path.with_suffix(".ranges")
        self.size = size
        self.stopped = False
        self.moved = False
        self._done = dict.fromkeys(range(0, size, CHUNK), 0)
        self._recorded = dict(self._done)
        self._changed = threading.Condition()
        self._read_journal()

    def _read_journal(self) -> None:
        if not (self.path.is_file() and self.journal.is_file()):
            return
        present = self.path.stat().st_size
        content = self.journal.read_bytes()
        for start, done in _RECORD.iter_unpack(content[: len(content) // 16 * 16]):
            if start in self._done and start + done <= present:
                done = min(done, self._length(start))
                self._done[start] = self._recorded[start] = max(done, self._done[start])

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not any(self._done.values())
        flags = os.O_CREAT | os.O_RDWR | (os.O_TRUNC if fresh else 0)
        self._file = os.open(self.path, flags, 0o644)
        self._log = os.open(self.journal, flags | os.O_APPEND, 0o644)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        os.close(self._log)

    @property
    def held(self) -> int:
        """The number of bytes that are written."""
        return sum(self._done.values())

    def pending(self) -> list[int]:
        """The starts of the chunks that are not complete, in order."""
        return [start for start in self._done if self._done[start] < self._length(start)]

    def missing(self, start: int) -> tuple[int, int]:
        """The start and the end of the bytes that a chunk still lacks."""
        return start + self._done[start], start + self._length(start)

    def _length(self, start: int) -> int:
        return min(CHUNK, self.size - start)

    def write(self, start: int, block: bytes) -> None:
        """Appends to the chunk that begins at `start`."""
        view, offset = memoryview(block), start + self._done[start]
        while view:
            written = os.pwrite(self._file, view, offset)
            view, offset = view[written:], offset + written
        with self._changed:
            self._done[start] = offset - start
            self._changed.notify_all()
        complete = self._done[start] == self._length(start)
        if complete or self._done[start] - self._recorded[start] >= RECORDED:
            self.record(start)

    def write_anew(self, offset: int, block: bytes) -> None:
        """Writes at an offset of a file that is downloaded again in one request."""
        position = 0
        while position < len(block):
            start = (offset + position) // CHUNK * CHUNK
            room = start + self._length(start) - offset - position
            self._done[start] = offset + position - start
            self.write(start, block[position : position + room])
            position += room

    def forget(self) -> None:
        """Marks all bytes as missing."""
        with self._changed:
            self._done = dict.fromkeys(self._done, 0)
            self._recorded = dict(self._done)
        os.ftruncate(self._log, 0)

    def record(self, start: int) -> None:
        """Writes to the journal how much of a chunk is written."""
        done = self._done[start]
        if done > self._recorded[start]:
            os.write(self._log, _RECORD.pack(start, done))
            self._recorded[start] = done

    def stop(self) -> None:
        """Ends a `digest` that waits for bytes."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def digest(self) -> str | None:
        """The SHA-256 of the whole file, computed while its bytes arrive; None after `stop`."""
        digest, position = hashlib.sha256(), 0
        while position < self.size:
            end = self._wait_beyond(position)
            if end is None:
                return None
            while position < end:
                block = os.pread(self._file, min(HASHED, end - position), position)
                if not block:
                    return None  # the download started again, or another program shortened the file
                digest.update(block)
                position += len(block)
        return digest.hexdigest()

    def _wait_beyond(self, position: int) -> int | None:
        """Waits for bytes after a position and returns the end of them; None after `stop`."""
        start = position // CHUNK * CHUNK
        enough = min(start + self._length(start), position + HASHED)
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or start + self._done[start] >= enough)
            return None if self.stopped else start + self._done[start]

    def sync(self) -> None:
        """Flushes the bytes to the disk."""
        os.fsync(self._file)

    def discard(self) -> None:
        """Removes the file and its journal."""
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        """Moves the complete file to its final path."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)
        self.moved = True
        self.journal.unlink(missing_ok=True)
