"""Writes a folder atomically: it appears complete or not at all."""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.locked_folders import delete_unlocked, lock_folder
from dream_o.weights.format.disk import check_space, disk_problem
from dream_o.weights.format.layout import BUNDLE_FILE, UNFINISHED_FILE


@contextmanager
def staged(target: Path, needed: int = 0, sources: Sequence[Path] = ()) -> Iterator[Path]:
    """Yields a new folder that becomes `target` when the block ends without an error.

    The block must call `write_unfinished`; its file is renamed when the folder is in its place.

    A killed run leaves a hidden `.NAME.partial-*` folder. The next run removes it if no process
    holds its lock. An existing bundle at `target` is replaced; anything else there is refused. If
    `target` is a symbolic link, the folder that it points to is replaced.

    Args:
        target: the folder to write.
        needed: the number of bytes that the block will write.
        sources: folders that the block reads.

    Raises:
        BundleError: `target` exists and is not a bundle, or is inside a source; the disk has too
            little space; or a file cannot be written.
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
    """Raises BundleError if `target` exists and is not a bundle."""
    if target.exists() and not _is_ours(target) and any_entry(target):
        raise BundleError(f"{target.name} exists and is not a bundle; choose another output")


def remove_leftovers(target: Path) -> None:
    """Removes the hidden folders that killed runs left beside `target`."""
    delete_unlocked(target.parent.glob(f".{glob.escape(target.name)}.partial-*"))


def sync_tree(folder: Path) -> None:
    """Flushes a folder and its subfolders to the disk, in case of a power failure."""
    for directory in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(directory)


def any_entry(path: Path) -> bool:
    """Whether a folder is not empty; True for a file."""
    return not path.is_dir() or any(path.iterdir())


def _is_ours(target: Path) -> bool:
    # A run that was killed after its folder was moved into place leaves the temporary name.
    return any((target / name).is_file() for name in (BUNDLE_FILE, UNFINISHED_FILE))


@contextmanager
def exchanged(stage: Path, target: Path) -> Iterator[None]:
    """Replaces `target` with `stage`; an error in the block restores the old folder."""
    old = None
    if target.is_dir() and any_entry(target):
        # A folder cannot be renamed onto one that is not empty. Between the two renames `target`
        # does not exist, and the old folder has the name of a leftover.
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
