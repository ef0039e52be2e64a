"""Downloads one file of a hub repository."""

from functools import partial
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.weights.fetch.address import DEFAULT_REVISION, parse_address
from dream_o.weights.fetch.hub import STAGING, find
from dream_o.weights.fetch.manifest import exclusive
from dream_o.weights.fetch.transfer import Wanted, fetch_files


def fetch_file(address: str, folder: Path) -> Path:
    """Returns the local path of a file on the hub; downloads it the first time.

    Args:
        address: `hf://owner/repository[@revision]/file`.
        folder: the weights folder; the file goes below `hub/` in it.

    Raises:
        BundleError: the address names no file, or the file cannot be fetched.
    """
    parsed = parse_address(address)
    if not parsed.path:
        raise BundleError(f"{parsed} names no file; use {parsed}/FILE.safetensors")
    revision = parsed.revision or DEFAULT_REVISION
    place = f"{parsed.repository}@{revision}".replace("/", "--")
    target = folder / "hub" / "files" / place / parsed.path
    staging = folder / STAGING / f"{place}-files"
    with exclusive(folder / STAGING / f"{place}-files.lock"):
        if not target.is_file():
            found = find(parsed.repository, parsed.path, revision)
            ask = partial(find, found.repository, found.path, found.commit)
            fetch_files([Wanted(ask, found, staging, target)], folder)
    return target
