"""The reference images of a row: where they are, and how they become files on this machine."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import fsspec

from dream_o.batch.storage import open_address, scheme_of
from dream_o.batch.trying import keep_trying, problem_of
from dream_o.errors import InputError
from dream_o.images.opening import file_hash
from dream_o.locked_folders import temporary_folder
from dream_o.server.inputs import MAX_DOWNLOAD_BYTES, URL_SCHEMES, open_files

DATA = "data:"
# A message shows so many characters of a path.
SHOWN = 200
# The number of files whose digests are remembered, because many rows may share a reference.
REMEMBERED = 4096
WEB = ("http", "https")
# The status codes with which a web server says that it is busy, and the first code for its errors.
BUSY = (408, 429)
SERVER_ERROR = 500


def reference_names(document: Mapping[str, Any]) -> list[str]:
    """The inputs that are files, such as `ref_image1`."""
    properties = document["components"]["schemas"]["Input"]["properties"]
    return [name for name, each in properties.items() if each.get("format") == "uri"]


def resolve(name: str, value: str, folder: str) -> str:
    """Returns the address of a reference: a data URL, a URL, or an absolute path.

    Args:
        name: the input, for the error.
        value: the value in the row; a path that does not start with `/` is relative to `folder`.
        folder: the folder of the file of requests, a path or an address.

    Raises:
        InputError: there is no such file on this machine, or the scheme is unknown.
    """
    if value.startswith(DATA):
        return value
    value = value.removeprefix("file://")
    scheme = scheme_of(value)
    if scheme is None and scheme_of(folder) and not value.startswith("/"):
        return f"{folder}/{value}"
    if scheme is None:
        path = Path(folder, Path(value).expanduser())
        try:
            is_file = path.is_file()
        except OSError:  # such as a name of thousands of characters
            is_file = False
        if not is_file:
            if len(value) > SHOWN:
                value = f"{value[:SHOWN]}...; a data URL begins with {DATA}"
            raise InputError(name, f"there is no file {value}")
        return str(path)
    if scheme not in (*URL_SCHEMES, *fsspec.available_protocols()):
        raise InputError(name, f"{scheme}:// is unknown; give a path or an http(s) or s3 URL")
    return value


def content_digest(name: str, address: str) -> str:
    """Identifies a reference: by the SHA-256 of a file on this machine, otherwise of its address.

    Raises:
        InputError: the file cannot be read.
    """
    if address.startswith(DATA) or scheme_of(address):
        return hashlib.sha256(address.encode()).hexdigest()
    try:
        status = Path(address).stat()
    except OSError:
        raise InputError(name, f"there is no file {address}") from None
    return _file_digest(name, address, status.st_mtime_ns, status.st_size)


@lru_cache(REMEMBERED)
def _file_digest(name: str, path: str, changed: int, size: int) -> str:
    return file_hash(Path(path), name)


@contextmanager
def as_files(inputs: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the inputs with their references as files, in the types that `predict` gets.

    Downloads are deleted when the block ends.

    Raises:
        InputError: a reference cannot be fetched.
    """
    with temporary_folder("references") as folder:
        given = dict(inputs)
        for name in reference_names(document):
            if given.get(name) is not None:
                given[name] = _openable(name, given[name], folder)
        there = {name: value for name, value in given.items() if value is not None}
        yield given | _opened(there, document, folder)


def _opened(there: Mapping[str, Any], document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    def open_all() -> dict[str, Any]:
        try:
            return open_files(there, document, folder)
        except InputError as error:
            if not _is_temporary(there, error):
                raise
            raise ConnectionError from error

    try:
        return keep_trying(open_all)
    except ConnectionError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def _is_temporary(there: Mapping[str, Any], error: InputError) -> bool:
    """Whether a download failed in a way that another attempt may not."""
    if scheme_of(str(there.get(error.name))) not in WEB or error.__cause__ is None:
        return False
    code = error.__cause__.code if isinstance(error.__cause__, HTTPError) else SERVER_ERROR
    return code in BUSY or code >= SERVER_ERROR


def _openable(name: str, address: str, folder: Path) -> str:
    """The reference in a form that `open_files` accepts: `@path`, or an http(s) or data URL."""
    scheme = scheme_of(address)
    if address.startswith(DATA) or scheme in URL_SCHEMES:
        return address
    if scheme is None:
        return f"@{address}"
    target = folder / f"{name}.fetched"
    target.write_bytes(_fetched(name, address))
    return f"@{target}"


def _fetched(name: str, address: str) -> bytes:
    system, path = open_address(address)

    def fetch() -> bytes:
        if system.size(path) > MAX_DOWNLOAD_BYTES:
            limit = MAX_DOWNLOAD_BYTES // 1_000_000
            raise InputError(name, f"the file is larger than {limit} MB")
        content: bytes = system.cat_file(path)
        return content

    try:
        return keep_trying(fetch)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(name, f"there is no file {address}") from None
    except Exception as error:
        raise InputError(name, f"the download failed: {problem_of(error)}") from error
