"""Downloads bundles from the hub or from a web server."""

import functools
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.locked_folders import temporary_folder
from dream_o.weights.fetch.address import DEFAULT_REVISION, HubAddress, parse_repository
from dream_o.weights.fetch.hub import STAGING, Found, find, find_on_web, is_plain_url
from dream_o.weights.fetch.manifest import exclusive
from dream_o.weights.fetch.transfer import Wanted, ask_all, fetch_files
from dream_o.weights.format.bundle import Bundle, read_bundle, read_record
from dream_o.weights.format.digests import FileRecord, sha256
from dream_o.weights.format.layout import BUNDLE_FILE
from dream_o.weights.format.staging import sync_tree

LookUp = Callable[[str], Found]


def fetch_bundle(reference: str, folder: Path) -> Bundle:
    """Returns a remote bundle; downloads it the first time.

    Args:
        reference: `hf://owner/repository[@revision]`, or the URL of a bundle's folder.
        folder: the weights folder; the bundle goes below `hub/` in it.

    Returns:
        The bundle as `read_bundle` returns it. If this call downloaded it, it is marked as
        verified, so that loading does not compute its digests again.

    Raises:
        BundleError: the download failed, or there is no bundle at the address.
    """
    look_up, name = _source(reference)
    target, staging = folder / "hub" / name, folder / STAGING / name
    with exclusive(folder / STAGING / f"{name}.lock"):
        if target.exists():
            return read_bundle(target)
        record_file = staging / BUNDLE_FILE
        fetch_files([_wanted(look_up, staging, BUNDLE_FILE, record_file)], folder)
        files = read_record(record_file).files
        # Files of an earlier run are kept only if they belong to the same bundle.
        parts = staging / sha256(record_file)
        for leftover in staging.iterdir():
            if leftover not in (parts, record_file):
                _remove(leftover)
        whole = parts / "whole"
        missing = {path: record for path, record in files.items() if not _is(whole / path, record)}
        answers = ask_all(functools.partial(look_up, path) for path in missing)
        fetch_files(
            [
                Wanted(functools.partial(look_up, path), answer, parts, whole / path, record)
                for (path, record), answer in zip(missing.items(), answers, strict=True)
            ],
            folder,
        )
        record_file.replace(whole / BUNDLE_FILE)
        read_bundle(whole)
        sync_tree(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(target)
        shutil.rmtree(staging)
    return replace(read_bundle(target), verified=True)


def fetch_record(address: HubAddress) -> tuple[bytes, Bundle, str]:
    """Downloads a bundle's `bundle.json` from the hub; returns its bytes, record and commit.

    Raises BundleError as `fetch_bundle` does.
    """
    revision = address.revision or DEFAULT_REVISION
    found = find(address.repository, BUNDLE_FILE, revision)

    def look_up(path: str) -> Found:
        return find(address.repository, path, found.commit)

    with temporary_folder("fetch") as folder:
        fetch_files([_wanted(look_up, folder, BUNDLE_FILE, folder / BUNDLE_FILE)], folder)
        return (folder / BUNDLE_FILE).read_bytes(), read_record(folder / BUNDLE_FILE), found.commit


def _wanted(look_up: LookUp, staging: Path, path: str, target: Path) -> Wanted:
    return Wanted(functools.partial(look_up, path), look_up(path), staging, target)


def _source(reference: str) -> tuple[LookUp, str]:
    """A function that asks about a file of the bundle, and a folder name for the reference."""
    if reference.startswith(("http://", "https://")):
        if not is_plain_url(reference):
            raise BundleError(
                "the URL of a bundle's folder must have the form https://host/path, without user "
                "name, password, query or fragment"
            )
        name = re.sub(r"[^\w.-]+", "--", reference.partition("://")[2].strip("/"))
        return functools.partial(find_on_web, reference), name
    address = parse_repository(reference)
    repository, revision = address.repository, address.revision or DEFAULT_REVISION
    # All files come from one commit, even if the branch moves during the download.
    commit = functools.cache(lambda: find(repository, BUNDLE_FILE, revision).commit)
    name = f"{repository}@{revision}".replace("/", "--")
    return lambda path: find(repository, path, commit()), name


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is(path: Path, record: FileRecord) -> bool:
    # A file gets its final name only after it was verified, so its size is enough here.
    return path.is_file() and path.stat().st_size == record.bytes
