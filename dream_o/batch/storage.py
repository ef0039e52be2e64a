"""Reads and writes files in a folder on this machine, or at `s3://`, `gs://` and others."""

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dream_o.atomic import atomic_write
from dream_o.batch.trying import keep_trying, problem_of
from dream_o.errors import UserError
from dream_o.locked_folders import temporary_folder

# The folder of the files that a batch needs only while it runs.
HIDDEN = ".batch"
# In these stores a file appears, complete, when its upload ends. On other file systems a file is
# first written under another name.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "oss", "memory"})
# The package that fsspec needs for a scheme, if its name is not that of the scheme.
PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
# The errors of a disk without hard links.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)

Answer = TypeVar("Answer")


def scheme_of(address: str) -> str | None:
    """The scheme of an address, such as `s3`; None for a path on this machine."""
    found = SCHEME.match(address)
    return found[1].lower() if found else None


def parent_of(address: str) -> str:
    """The folder of a file, without a slash at the end; an absolute path on this machine."""
    if scheme_of(address):
        return address.rpartition("/")[0]
    return str(Path(address).expanduser().absolute().parent)


def open_address(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and the address's path in it.

    Raises:
        UserError: the package for the scheme is not installed, or there is no such scheme.
    """
    scheme = scheme_of(address)
    try:
        system, path = fsspec.core.url_to_fs(address if scheme else str(_local(address)))
    except ImportError as error:
        package = PACKAGES.get(scheme or "", scheme)
        raise UserError(
            f"{scheme}:// needs a package that is not installed; run pip install {package}"
        ) from error
    except ValueError as error:
        raise UserError(f"{address}: there is no file system for {scheme}://") from error
    return system, path


def _local(address: str) -> Path:
    return Path(address).expanduser().absolute()


def _create_local(target: Path, content: bytes) -> None:
    """Creates a file that appears only when it is complete; raises FileExistsError if it exists."""
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(content)
        os.link(beside, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with target.open("xb") as file:
            file.write(content)
    finally:
        beside.unlink(missing_ok=True)


class StorageError(UserError):
    """The output folder cannot be read or written, even after several attempts."""


def temporary_folder_error(problem: str) -> UserError:
    """The error if the temporary folder of this machine cannot be written."""
    return UserError(
        f"the temporary folder cannot be written: {problem}; set TMPDIR to a folder on another disk"
    )


class Storage:
    """A folder in which every file appears complete or not at all.

    Instances can be pickled. Paths are relative to the folder, with `/` between the parts.
    Operations that fail are tried again (`dream_o.batch.trying`), except on this machine.

    Args:
        address: a path on this machine, or an address that fsspec opens, such as `s3://...`.

    Raises:
        UserError: the address cannot be opened.
    """

    def __init__(self, address: str) -> None:
        scheme = scheme_of(address)
        self.address = address.rstrip("/") if scheme else str(_local(address))
        self.system, self.root = open_address(self.address)
        self.root = self.root.rstrip("/")
        self.folder = None if scheme else Path(self.address)

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.address,)

    def write(self, path: str, content: bytes) -> None:
        """Writes a file, or replaces it.

        Raises:
            StorageError: it cannot be written.
        """
        with self.writing(path) as file:
            file.write(content)

    def create(self, path: str, content: bytes) -> bool:
        """Writes a file if it does not exist; returns whether it did.

        If two machines do this at the same time, only one gets True on local and shared disks, on
        S3 and on most other stores. To be sure everywhere, read the file afterwards.

        Raises:
            StorageError: it cannot be written.
        """
        if self.read(path) is not None:
            return False
        target = f"{self.root}/{path}"
        folder = target.rpartition("/")[0]

        def make() -> None:
            if isinstance(self.system, LocalFileSystem):
                _create_local(Path(target), content)
                return
            try:
                self.system.pipe_file(target, content, mode="create")
            except (TypeError, NotImplementedError):  # fsspec's signs that this mode is missing
                self.system.pipe_file(target, content)

        try:
            if scheme_of(self.address) not in OBJECT_STORES:
                self.system.makedirs(folder, exist_ok=True)
            self._attempt(make, "written")
        except FileExistsError:
            if self.system.isfile(target):
                return False
            raise StorageError("the output cannot be written: it is a file, not a folder") from None
        except OSError as error:
            raise StorageError(f"the output cannot be written: {problem_of(error)}") from error
        return True

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """Yields a binary file that becomes `path` when the block ends without an error.

        Raises:
            StorageError: it cannot be written, or the block raised an OSError.
        """
        write = self._write_local if self.folder is not None else self._write_remote
        try:
            with write(path) as file:
                yield file
        except OSError as error:
            raise StorageError(f"the output cannot be written: {problem_of(error)}") from error

    @contextmanager
    def _write_local(self, path: str) -> Iterator[BinaryIO]:
        target = Path(self.address, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Journals are written twice per image, and a damaged one costs only its few images.
        with atomic_write(target, durable=not path.startswith(f"{HIDDEN}/")) as file:
            yield file

    @contextmanager
    def _write_remote(self, path: str) -> Iterator[BinaryIO]:
        target = f"{self.root}/{path}"
        with temporary_folder("upload") as folder:
            source = folder / "file"
            with source.open("wb") as file:
                yield file
            self._attempt(lambda: self._upload(str(source), target), "written")

    def _upload(self, source: str, target: str) -> None:
        if scheme_of(self.address) in OBJECT_STORES:
            self.system.put_file(source, target)
            return
        self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.system.put_file(source, f"{target}.unfinished")
        self.system.mv(f"{target}.unfinished", target)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """A file's bytes `[start, end)`; None if there is no such file.

        Raises:
            StorageError: it cannot be read.
        """
        place = f"{self.root}/{path}"
        content: bytes
        try:
            content = self._attempt(
                lambda: self.system.cat_file(place, start=start, end=end), "read"
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def opened(self, path: str) -> BinaryIO:
        """Opens a file for reading; raises StorageError if it cannot be opened."""
        file: BinaryIO = self._attempt(
            lambda: self.system.open(f"{self.root}/{path}", "rb"), "read"
        )
        return file

    def files(self, folder: str = "") -> Iterator[str]:
        """The paths of the files in a folder, without those of its subfolders."""
        for name, kind in self._entries(folder):
            if kind == "file":
                yield name

    def folders(self, folder: str = "") -> Iterator[str]:
        """The paths of the folders in a folder."""
        for name, kind in self._entries(folder):
            if kind == "directory":
                yield name

    def is_same(self, path: str, other: str) -> bool:
        """Whether two paths are the same file, as on disks that ignore case."""
        if self.folder is None or path.lower() != other.lower():
            return path == other
        try:
            return (self.folder / path).samefile(self.folder / other)
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        """Deletes a file if it exists."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._attempt(lambda: self.system.rm_file(f"{self.root}/{path}"), "written")

    def remove_folder(self, path: str) -> None:
        """Deletes a folder with everything in it if it exists."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._attempt(lambda: self.system.rm(f"{self.root}/{path}", recursive=True), "written")

    def remove_if_empty(self) -> None:
        """Deletes this folder if it is empty; object stores have no empty folders."""
        if self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()

    def _attempt(self, operation: Callable[[], Answer], verb: str) -> Answer:
        """Runs an operation, several times if it fails and the storage is not on this machine.

        Args:
            operation: what to run; can be repeated.
            verb: `read` or `written`, for the error.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no such file.
            FileExistsError: the file exists.
            StorageError: any other error.
        """
        try:
            return operation() if self.folder is not None else keep_trying(operation)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, UserError):
            raise
        except Exception as error:
            raise StorageError(f"the output cannot be {verb}: {problem_of(error)}") from error

    def _entries(self, folder: str) -> Iterator[tuple[str, str]]:
        place = f"{self.root}/{folder}".rstrip("/")
        self.system.invalidate_cache()
        try:
            entries = self._attempt(lambda: self.system.ls(place, detail=True), "read")
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if name and entry["name"].rstrip("/") != place:
                yield f"{folder}/{name}".lstrip("/"), entry["type"]
