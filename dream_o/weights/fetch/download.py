"""Downloads the sets of files that the manifest lists."""

import logging
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from dream_o.weights.fetch.hub import STAGING, Found, find
from dream_o.weights.fetch.manifest import Locked, Remote, Set, add_to_lock, exclusive, read_lock
from dream_o.weights.fetch.transfer import Wanted, ask_all, fetch_files
from dream_o.weights.format.digests import FileRecord, sha256
from dream_o.weights.format.disk import size_text

logger = logging.getLogger(__name__)


def installed(folder: Path, each: Set) -> bool:
    """Whether every file of a set exists with the size in `manifest.lock`."""
    lock = read_lock(folder)
    return all(_in_place(folder, file, lock.get(file.local)) for file in each.files)


def _in_place(folder: Path, file: Remote, locked: Locked | None) -> bool:
    path = folder / file.local
    return locked is not None and path.is_file() and path.stat().st_size == locked.bytes


def _is_whole(folder: Path, file: Remote, locked: Locked | None) -> bool:
    if locked is None or not _in_place(folder, file, locked):
        return False
    logger.info("checking %s, %s", file.local, size_text(locked.bytes))
    return sha256(folder / file.local) == locked.sha256


def download(folder: Path, sets: Iterable[Set]) -> None:
    """Downloads the missing and damaged files of some sets into the weights folder.

    Before the first byte is downloaded, the hub is asked about every such file and the free disk
    space is checked. A file that is in `manifest.lock` is downloaded from the same commit and must
    have the same digest. A new file must have the digest that the hub states, and is added to
    `manifest.lock`. If several processes run at once, the others wait for the first.

    Raises:
        BundleError: the download failed; the message says what to do.
    """
    wanted = [(each, file) for each in sets for file in each.files]
    with exclusive(folder / STAGING / "download.lock"):
        lock = read_lock(folder)
        missing = [
            (each, file, lock.get(file.local))
            for each, file in wanted
            if not _is_whole(folder, file, lock.get(file.local))
        ]
        questions = [
            partial(find, each.repository, file.path, locked.commit if locked else each.revision)
            for each, file, locked in missing
        ]
        files = [
            _wanted(folder, each, file, locked, answer)
            for (each, file, locked), answer in zip(missing, ask_all(questions), strict=True)
        ]

        def arrived(index: int, record: FileRecord) -> None:
            each, file, locked = missing[index]
            if locked is None:
                commit = files[index].found.commit
                new = Locked(each.repository, commit, record.bytes, record.sha256)
                add_to_lock(folder, file.local, new)

        fetch_files(files, folder, arrived)
        for each, _, _ in missing:
            shutil.rmtree(_staging(folder, each), ignore_errors=True)


def _staging(folder: Path, each: Set) -> Path:
    # Adapters of several repositories share a folder, but not a staging folder.
    return folder / STAGING / each.repository.replace("/", "--")


def _wanted(folder: Path, each: Set, file: Remote, locked: Locked | None, answer: Found) -> Wanted:
    expected = None
    if locked is not None:
        expected = FileRecord(locked.bytes, locked.sha256)
    elif file.sha256:
        expected = FileRecord(answer.bytes, file.sha256)
    return Wanted(
        ask=partial(find, each.repository, file.path, answer.commit),
        found=answer,
        staging=_staging(folder, each),
        target=folder / file.local,
        expected=expected,
    )


def differing(folder: Path, sets: Iterable[Set]) -> list[str]:
    """Compares the files of some sets with `manifest.lock`; returns a line for each wrong file."""
    lock, wrong = read_lock(folder), []
    for file in (file for each in sets for file in each.files):
        path, locked = folder / file.local, lock.get(file.local)
        if not path.is_file():
            wrong.append(f"{file.local}: missing")
        elif locked is None:
            wrong.append(f"{file.local}: not in manifest.lock")
        elif path.stat().st_size != locked.bytes:
            wrong.append(f"{file.local}: {path.stat().st_size} bytes, not {locked.bytes}")
        elif sha256(path) != locked.sha256:
            wrong.append(f"{file.local}: its SHA-256 is not the one in manifest.lock")
    return wrong
