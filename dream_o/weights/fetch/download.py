"""Downloads: what the manifest names, and bundles that a user keeps on the hub."""

import functools
import logging
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.weights.fetch.hub import (
    STAGING,
    Found,
    fetch,
    find,
    find_on_web,
    is_plain_url,
    parse_reference,
    part_size,
)
from dream_o.weights.fetch.manifest import Locked, Remote, Set, add_to_lock, exclusive, read_lock
from dream_o.weights.format.bundle import read_bundle, read_record
from dream_o.weights.format.digests import FileRecord, sha256
from dream_o.weights.format.disk import check_space, size_text
from dream_o.weights.format.layout import BUNDLE_FILE
from dream_o.weights.format.staging import sync_tree

logger = logging.getLogger(__name__)


def installed(folder: Path, each: Set) -> bool:
    """Whether every file of a set is in its place, with the size that the lock says."""
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
    """Fetches what is missing or damaged of some sets into the weights folder.

    The hub is asked about every missing file, and the disk's space is checked, before the first
    byte is fetched. A file that the lock knows is fetched from the same commit and must be the
    same; a new one must have the digest that the hub announces, and is added to the lock. Several
    processes may run at once: each file is fetched by one of them.

    Raises BundleError, saying what to do, for everything that can go wrong on the way.
    """
    wanted = [(each, file) for each in sets for file in each.files]
    with exclusive(folder / STAGING / "download.lock"):
        lock = read_lock(folder)
        missing = [
            (each, file, lock.get(file.local))
            for each, file in wanted
            if not _is_whole(folder, file, lock.get(file.local))
        ]
        found = [
            find(each.repository, file.path, locked.commit if locked else each.revision)
            for each, file, locked in missing
        ]
        needed = sum(
            answer.bytes - part_size(answer, _staging(folder, each))
            for (each, _, _), answer in zip(missing, found, strict=True)
        )
        check_space(folder, needed, "to download", "nothing was downloaded")
        for (each, file, locked), answer in zip(missing, found, strict=True):
            logger.info("downloading %s, %s", file.local, size_text(answer.bytes))
            _download_one(folder, each, file, locked, answer)
        for each, _, _ in missing:
            shutil.rmtree(_staging(folder, each), ignore_errors=True)


def _staging(folder: Path, each: Set) -> Path:
    # Adapters of several repositories share a folder; their unfinished files must not.
    return folder / STAGING / each.repository.replace("/", "--")


def _download_one(
    folder: Path, each: Set, file: Remote, locked: Locked | None, answer: Found
) -> None:
    expected = None
    if locked is not None:
        expected = FileRecord(locked.bytes, locked.sha256)
    elif digest := file.sha256 or answer.sha256:
        expected = FileRecord(answer.bytes, digest)
    # Asked again: the address in the first answer may have expired while others were fetched.
    again = find(each.repository, file.path, answer.commit)
    record = fetch(again, _staging(folder, each), folder / file.local, expected)
    if locked is None:
        add_to_lock(
            folder,
            file.local,
            Locked(each.repository, answer.commit, record.bytes, record.sha256),
        )


def differing(folder: Path, sets: Iterable[Set]) -> list[str]:
    """What is wrong with the downloaded files of some sets: one line a file, naming it."""
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


def fetch_bundle(reference: str, folder: Path) -> Path:
    """The folder of a bundle that is elsewhere, fetched the first time that it is asked for.

    Args:
        reference: `hf://owner/repository[@revision]`, or the URL that a bundle's files are below.
        folder: the weights folder; the bundle goes below `hub/` in it.

    Raises BundleError as `download` does, and when there is no bundle.
    """
    look_up, name = _source(reference)
    target, staging = folder / "hub" / name, folder / STAGING / name
    with exclusive(folder / STAGING / f"{name}.lock"):
        if target.exists():
            return target
        fetch(look_up(BUNDLE_FILE), staging, staging / BUNDLE_FILE)
        files = read_record(staging / BUNDLE_FILE).files
        # What an earlier run left is of use only to the same bundle.
        parts = staging / sha256(staging / BUNDLE_FILE)
        for leftover in staging.iterdir():
            if leftover not in (parts, staging / BUNDLE_FILE):
                _remove(leftover)
        whole = parts / "whole"
        missing = {path: record for path, record in files.items() if not _is(whole / path, record)}
        held = sum(part.stat().st_size for part in parts.glob("*.part"))
        needed = sum(record.bytes for record in missing.values()) - held
        check_space(folder, max(needed, 0), "to download", "nothing was downloaded")
        for path, record in missing.items():
            logger.info("downloading %s, %s", path, size_text(record.bytes))
            fetch(look_up(path), parts, whole / path, record)
        (staging / BUNDLE_FILE).replace(whole / BUNDLE_FILE)
        read_bundle(whole)
        sync_tree(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(target)
        shutil.rmtree(staging)
    return target


def _source(reference: str) -> tuple[Callable[[str], Found], str]:
    """What tells about a bundle's file, and a folder's name that stands for the reference."""
    if reference.startswith(("http://", "https://")):
        if not is_plain_url(reference):
            raise BundleError(
                "the URL of a bundle's folder must be of the form https://host/path, without user "
                "name, password, query or fragment"
            )
        name = re.sub(r"[^\w.-]+", "--", reference.partition("://")[2].strip("/"))
        return functools.partial(find_on_web, reference), name
    repository, revision = parse_reference(reference)
    # One commit for all the files, whatever is pushed to the branch meanwhile.
    commit = functools.cache(lambda: find(repository, BUNDLE_FILE, revision).commit)
    name = f"{repository}@{revision}".replace("/", "--")
    return lambda path: find(repository, path, commit()), name


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is(path: Path, record: FileRecord) -> bool:
    # What is under its own name was verified before it was put there.
    return path.is_file() and path.stat().st_size == record.bytes
