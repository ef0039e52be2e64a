"""Downloads files over several connections, verifies them and moves them to their final paths."""

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from tqdm import tqdm

from dream_o.errors import BundleError
from dream_o.weights.fetch.hub import Found, Question, is_git_sha1, one_sentence
from dream_o.weights.fetch.part import Part
from dream_o.weights.fetch.ranges import Source, StoppedError
from dream_o.weights.format.digests import FileRecord
from dream_o.weights.format.disk import check_space, size_text

logger = logging.getLogger(__name__)

CONNECTIONS = 16
"""Ranges that are downloaded at once; one connection rarely uses all of a machine's bandwidth."""

SYNCED_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Wanted:
    """A file to download.

    Attributes:
        ask: asks the server about the file again; the URL in an answer is valid for minutes only.
        found: the first answer.
        staging: a folder on the target's disk, for unfinished files.
        target: the final path; only the complete, verified file is moved there.
        expected: the required size and digest; None to accept those that the server states.
    """

    ask: Question
    found: Found
    staging: Path
    target: Path
    expected: FileRecord | None = None

    @property
    def part(self) -> Path:
        """The path of the unfinished file.

        Its name includes the ETag, so that bytes of another content are never added to it, and a
        hash of the path, because two files of a repository can be equal.
        """
        place = hashlib.sha256(self.found.path.encode()).hexdigest()[:8]
        return self.staging / f"{re.sub(r'[^0-9a-zA-Z]', '', self.found.etag)}-{place}.part"


def ask_all(questions: Iterable[Question]) -> list[Found]:
    """Asks several questions at once and returns the answers; raises the first error."""
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ask") as pool:
        return list(pool.map(lambda ask: ask(), questions))


def fetch_files(
    files: Sequence[Wanted], folder: Path, arrived: Callable[[int, FileRecord], None] | None = None
) -> list[FileRecord]:
    """Downloads files over several connections and moves each to its final path once verified.

    Digests are computed while the bytes arrive. An interrupted download continues where it stopped,
    even if its process was killed. The caller must hold the lock of the staging folders.

    Args:
        files: the files to download.
        folder: a folder on the disk whose free space is checked before the first byte.
        arrived: called in this thread with the index in `files` and the record of each finished
            file, in the order of `files`.

    Returns:
        The record of each file.

    Raises:
        BundleError: the download failed; the message says what to do.
    """
    records: list[FileRecord] = []
    parts = [Part(each.part, each.found.bytes) for each in files]
    needed = sum(part.size - part.held for part in parts)
    check_space(folder, needed, "to download", "nothing was downloaded")
    if not files:
        return records
    with (
        tqdm(
            total=sum(part.size for part in parts),
            initial=sum(part.held for part in parts),
            unit="B",
            unit_scale=True,
            desc="downloading",
            mininterval=1.0,
            disable=os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == "1",
        ) as bar,
        _Transfer(files, bar.update) as transfer,
    ):
        for index, each in enumerate(files):
            record = transfer.finish(index)
            records.append(record)
            if arrived is not None:
                arrived(index, record)
            logger.info("fetched %s, %s", each.found.path, size_text(record.bytes))
    return records


class _Transfer:
    """One run of `fetch_files`: the threads that read ranges and those that compute digests."""

    def __init__(self, files: Sequence[Wanted], progress: Callable[[int], object]) -> None:
        self.files = files
        self.progress = progress
        self.stop = threading.Event()

    def __enter__(self) -> "_Transfer":
        with ExitStack() as opened:
            self.sources = []
            for each in self.files:
                with _errors_of(each.found):
                    self.sources.append(
                        Source(
                            each.ask,
                            each.found,
                            opened.enter_context(Part(each.part, each.found.bytes)),
                        )
                    )
            self.readers = opened.enter_context(
                ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch")
            )
            self.hashers = opened.enter_context(
                ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="sha256")
            )
            syncer = opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sync"))
            # This runs before the pools wait for their threads, and ends them.
            opened.callback(self._end)
            syncer.submit(self._sync_on_the_way)
            self.digests = [self.hashers.submit(each.part.digest) for each in self.sources]
            self.reads: dict[int, list[Future[None]]] = {i: [] for i in range(len(self.sources))}
            for index, start in _order(self.sources, os.cpu_count() or 1):
                self.reads[index].append(self.readers.submit(self._read, index, start))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _end(self) -> None:
        self.stop.set()
        for source in self.sources:
            source.part.stop()
        self.readers.shutdown(wait=False, cancel_futures=True)
        self.hashers.shutdown(wait=False, cancel_futures=True)

    def _sync_on_the_way(self) -> None:
        """Flushes bytes to the disk during the download, so that the last flush is short."""
        synced = dict.fromkeys(range(len(self.sources)), 0)
        while not self.stop.wait(SYNCED_EVERY):
            for index, source in enumerate(self.sources):
                held = source.part.held
                if held > synced[index] and not source.part.moved:
                    source.part.sync()
                    synced[index] = held

    def finish(self, index: int) -> FileRecord:
        """Waits for one file, verifies it and moves it to its final path."""
        every = [read for reads in self.reads.values() for read in reads]
        mine = self.reads[index]
        while not all(read.done() for read in mine):
            # If any file fails, the download ends now and not when that file is next.
            wait([read for read in every if not read.done()], 0.2, FIRST_EXCEPTION)
            for read in every:
                if read.done():
                    read.result()
        for read in mine:
            read.result()
        each, part = self.files[index], self.sources[index].part
        with _errors_of(each.found):
            part.sync()
            digest = self.digests[index].result()
            record = FileRecord(part.size, digest or "")
            _check(each, part, record)
            part.move_to(each.target)
        return record

    def _read(self, index: int, start: int) -> None:
        source = self.sources[index]
        with _errors_of(source.found):
            try:
                source.read(start, self.stop, self.progress)
            except StoppedError:
                return
            finally:
                source.part.record(start)


def _order(sources: Sequence[Source], at_once: int) -> Iterator[tuple[int, int]]:
    """Yields all missing chunks as (file, start): `at_once` files at a time, their chunks in turn.

    With as many files at a time as threads that hash, the digests keep up with the download.
    """
    pending = [(index, source.part.pending()) for index, source in enumerate(sources)]
    for first in range(0, len(pending), at_once):
        group = pending[first : first + at_once]
        for row in zip_longest(*(starts for _, starts in group)):
            for (index, _), start in zip(group, row, strict=True):
                if start is not None:
                    yield index, start


@contextmanager
def _errors_of(found: Found) -> Iterator[None]:
    with one_sentence(found.repository, found.path, found.commit):
        yield


def _check(each: Wanted, part: Part, record: FileRecord) -> None:
    """Removes the file and raises BundleError if it does not have the expected digest."""
    found, expected = each.found, each.expected
    if expected is None and found.sha256 is not None:
        expected = FileRecord(found.bytes, found.sha256)
    if expected is not None and record != expected:
        part.discard()
        raise BundleError(
            f"{found.path} of {found.repository} is not the file that was expected "
            f"(SHA-256 {record.sha256}, not {expected.sha256}); it was removed, download it again"
        )
    if expected is None and is_git_sha1(found.etag) and _git_sha1(part.path) != found.etag:
        part.discard()
        raise BundleError(
            f"{found.path} of {found.repository} does not have the SHA-1 that the hub stated; "
            "it was removed, download it again"
        )


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
