"""A folder that appears whole or not at all, whatever happens while it is written."""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.weights.format.disk import check_space, disk_problem
from dream_o.weights.format.layout import BUNDLE_FILE, UNFINISHED_FILE


@contextmanager
def staged(target: Path, needed: int = 0, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when the block ends without an error.

    The block calls `write_unfinished`: the folder is a bundle only when it is in its place.

    A killed run leaves a hidden `.NAME.partial-*` folder; the next one removes it, which it knows
    from the lock that no living process holds. A bundle that is already at `target` is replaced;
    anything else there is left alone. When `target` is a link, what it leads to is replaced.

    Args:
        target: the folder.
        needed: bytes that the block will write.
        sources: folders that the block reads.

    Raises BundleError when something that is no bundle has the name, when `target` is inside a
    source, when there is no room, and for whatever the disk refuses.
    """
    if not target.name:
        raise BundleError("the output must be the name of a folder")
    try:
        with _staged(target.resolve(), needed, sources) as stage:
            yield stage
    except OSError as error:
        raise BundleError(f"{target.name} was not written: {disk_problem(error)}") from None
    except RuntimeError as error:
        if "ymlink" not in str(error):
            raise
        raise BundleError(f"{target.name} is a link that leads to itself") from None


@contextmanager
def _staged(target: Path, needed: int, sources: Sequence[Path]) -> Iterator[Path]:
    if any(source.resolve() in target.parents for source in sources):
        raise BundleError(f"{target.name} would lie inside a folder that it is made from")
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    check_space(target.parent, needed, f"for {target.name}", "nothing was written", spare=0)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    lock = lock_folder(stage)
    try:
        if lock is None:
            raise BundleError(f"{target.name} is being written by another process")
        yield stage
        stage.chmod(0o755)
        sync_tree(stage)
        with exchanged(stage, target):
            (target / UNFINISHED_FILE).replace(target / BUNDLE_FILE)
            _sync(target)
            _sync(target.parent)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def check_target(target: Path) -> None:
    """Raises BundleError when something that is no bundle has this name."""
    if target.exists() and not _is_ours(target) and any_entry(target):
        raise BundleError(f"{target.name} exists and is no bundle; choose another output")


def remove_leftovers(target: Path) -> None:
    """Removes what killed runs left beside `target`."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        lock = lock_folder(leftover)
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def sync_tree(folder: Path) -> None:
    """Makes the names in a folder and below it last through a loss of power."""
    for directory in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(directory)


def any_entry(path: Path) -> bool:
    """Whether there is anything in the folder; a file counts as something."""
    return not path.is_dir() or any(path.iterdir())


def lock_folder(folder: Path) -> int | None:
    """A descriptor that holds the folder's lock until it is closed; None if another has it."""
    # The folder itself is locked: a lock file could be removed before the folder is.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor
    return None


def _is_ours(target: Path) -> bool:
    # A run that was killed after its folder took the place leaves the file unfinished.
    return any((target / name).is_file() for name in (BUNDLE_FILE, UNFINISHED_FILE))


@contextmanager
def exchanged(stage: Path, target: Path) -> Iterator[None]:
    """Puts a folder in the place of another; an error in the block puts the old one back."""
    old = None
    if target.is_dir() and any_entry(target):
        # A folder cannot be renamed onto one that holds files. Between the two renames there is
        # no folder, and the old one has a leftover's name.
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        target.replace(old)
    try:
        stage.replace(target)
        yield
    except BaseException:
        if target.exists():
            target.replace(stage)
        if old is not None:
            old.replace(target)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
