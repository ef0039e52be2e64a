"""Files from the hub or a web server into their places: whole, verified, over many connections."""

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
"""Ranges that are fetched at once: one connection seldom gets all of a machine's bandwidth."""


SYNCED_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Wanted:
    """A file that is to be fetched.

    Attributes:
        ask: asks the server about the file; the address in an answer lasts for minutes only.
        found: the first answer.
        staging: a folder on the target's disk, for what is not yet whole.
        target: the file's place; nothing is ever there but the whole, verified file.
        expected: what it must be; None takes what the server announces.
    """

    ask: Question
    found: Found
    staging: Path
    target: Path
    expected: FileRecord | None = None

    @property
    def part(self) -> Path:
        """Where the unfinished file is.

        Its name stands for its content, so that other bytes are never put to it, and for its path,
        because two files of a repository may be equal.
        """
        place = hashlib.sha256(self.found.path.encode()).hexdigest()[:8]
        return self.staging / f"{re.sub(r'[^0-9a-zA-Z]', '', self.found.etag)}-{place}.part"


def ask_all(questions: Iterable[Question]) -> list[Found]:
    """The answers to several questions, asked at once; the first refusal is raised."""
    with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="ask") as pool:
        return list(pool.map(lambda ask: ask(), questions))


def fetch_files(
    files: Sequence[Wanted], folder: Path, arrived: Callable[[int, FileRecord], None] | None = None
) -> list[FileRecord]:
    """Downloads files over several connections, and moves each into its place once it is verified.

    Digests are computed while the bytes arrive. A download that was cut off, or whose process was
    killed, continues where it was. The caller holds the lock of the staging folders.

    Args:
        files: what to fetch.
        folder: on the disk that must have room for them, which is checked before the first byte.
        arrived: called, in this thread, with the place in `files` and the record of each file
            that is in its place, in the order of `files`.

    Returns:
        The record of each file.

    Raises:
        BundleError: what to do, for everything that can go wrong on the way.
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
                with _speaking(each.found):
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
            # Runs before the pools wait for their threads, which it ends.
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
        """Writes bytes through to the disk while others arrive, so that little is left to do."""
        synced = dict.fromkeys(range(len(self.sources)), 0)
        while not self.stop.wait(SYNCED_EVERY):
            for index, source in enumerate(self.sources):
                held = source.part.held
                if held > synced[index] and not source.part.moved:
                    source.part.sync()
                    synced[index] = held

    def finish(self, index: int) -> FileRecord:
        """Waits for one file, verifies it, and moves it into its place."""
        every = [read for reads in self.reads.values() for read in reads]
        mine = self.reads[index]
        while not all(read.done() for read in mine):
            # A failure of any file ends the download now, not when its turn comes.
            wait([read for read in every if not read.done()], 0.2, FIRST_EXCEPTION)
            for read in every:
                if read.done():
                    read.result()
        for read in mine:
            read.result()
        each, part = self.files[index], self.sources[index].part
        with _speaking(each.found):
            part.sync()
            digest = self.digests[index].result()
            record = FileRecord(part.size, digest or "")
            _check(each, part, record)
            part.move_to(each.target)
        return record

    def _read(self, index: int, start: int) -> None:
        source = self.sources[index]
        with _speaking(source.found):
            try:
                source.read(start, self.stop, self.progress)
            except StoppedError:
                return
            finally:
                source.part.record(start)


def _order(sources: Sequence[Source], at_once: int) -> Iterator[tuple[int, int]]:
    """Every missing chunk as (file, start): a few files at a time, their chunks in turn.

    As many files arrive at once as can be hashed at once, so that digests keep up.
    """
    pending = [(index, source.part.pending()) for index, source in enumerate(sources)]
    for first in range(0, len(pending), at_once):
        group = pending[first : first + at_once]
        for row in zip_longest(*(starts for _, starts in group)):
            for (index, _), start in zip(group, row, strict=True):
                if start is not None:
                    yield index, start


@contextmanager
def _speaking(found: Found) -> Iterator[None]:
    with one_sentence(found.repository, found.path, found.commit):
        yield


def _check(each: Wanted, part: Part, record: FileRecord) -> None:
    """Removes the file and raises BundleError when it is not the right one."""
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
            f"{found.path} of {found.repository} is not the file that the hub announced (another "
            "SHA-1); it was removed, download it again"
        )


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
