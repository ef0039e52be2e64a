"""The files that can be downloaded (`manifest.toml`) and those that were (`manifest.lock`)."""

import json
import logging
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from dream_o.atomic import atomic_write
from dream_o.errors import BundleError

logger = logging.getLogger(__name__)

MANIFEST_FILE, LOCK_FILE = "manifest.toml", "manifest.lock"


@dataclass(frozen=True)
class Remote:
    """One file of a set.

    Attributes:
        path: the path in the repository.
        local: the path in the weights folder.
        size: the size in bytes; None if the manifest does not state it.
        sha256: the required digest; None to accept that of the first download.
    """

    path: str
    local: str
    size: int | None
    sha256: str | None = None


@dataclass(frozen=True)
class Set:
    """Files that are downloaded together; an `optional` set only if its name or group is given."""

    name: str
    title: str
    repository: str
    revision: str
    licence: str
    gated: bool
    optional: bool
    group: str
    files: tuple[Remote, ...]


@dataclass(frozen=True)
class Locked:
    """A file as it was first downloaded."""

    repository: str
    commit: str
    bytes: int
    sha256: str


def read_manifest(path: Path) -> dict[str, Set]:
    """Reads the sets, by name; raises BundleError if the file is not valid."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _set(name, entry) for name, entry in raw.items()}
    except FileNotFoundError:
        raise BundleError(f"{path.name} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path.name} cannot be read: {error}") from None


def _set(name: str, raw: Mapping[str, object]) -> Set:
    entry = dict(raw)
    folder, files = entry.pop("folder"), entry.pop("files")
    if not isinstance(files, list):
        raise TypeError(f"{name}: files is not a list")
    remotes = tuple(
        Remote(
            path=file["path"],
            local=f"{folder}/{file.get('to', file['path'])}",
            size=file.get("size"),
            sha256=file.get("sha256"),
        )
        for file in files
    )
    for remote in remotes:
        local = PurePosixPath(remote.local)
        if local.is_absolute() or ".." in local.parts or len(local.parts) < 2:
            raise ValueError(f"{name}: {remote.local!r} is not inside the weights folder")
    defaults = {"gated": False, "optional": False, "group": ""}
    return Set(name=name, files=remotes, **(defaults | entry))  # type: ignore[arg-type]


def choose(manifest: Mapping[str, Set], names: list[str]) -> list[Set]:
    """The sets with the given names or groups; without names, all that are not optional.

    Raises BundleError for an unknown name.
    """
    groups = dict.fromkeys(each.group for each in manifest.values() if each.group)
    known = [*manifest, *groups]
    for name in names:
        if name not in known:
            raise BundleError(f"{name!r} is not in the manifest; use {', '.join(known)}")
    named = [each for each in manifest.values() if not {each.name, each.group}.isdisjoint(names)]
    return named or [each for each in manifest.values() if not each.optional]


def read_lock(folder: Path) -> dict[str, Locked]:
    """The downloaded files, by their paths in the weights folder."""
    try:
        raw = json.loads((folder / LOCK_FILE).read_bytes())
        return {local: Locked(**entry) for local, entry in raw.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError):
        raise BundleError(f"{LOCK_FILE} cannot be read; restore it or remove it") from None


def add_to_lock(folder: Path, local: str, locked: Locked) -> None:
    """Adds a file to `manifest.lock`; several processes can do so at once."""
    with exclusive(folder / f".{LOCK_FILE}"):
        entries = {name: asdict(entry) for name, entry in read_lock(folder).items()}
        entries[local] = asdict(locked)
        with atomic_write(folder / LOCK_FILE, durable=True) as file:
            file.write(json.dumps(dict(sorted(entries.items())), indent=2).encode() + b"\n")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Locks a path until the block ends, after waiting for other processes; a kill unlocks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            logger.info("waiting for another process that holds %s", path.name)
            lock.acquire()
        yield
    finally:
        lock.release()
