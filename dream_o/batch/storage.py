"""Files of a folder that fsspec opens: on this machine, or at `s3://`, `gs://` and others."""

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dream_o.atomic import atomic_write
from dream_o.batch.trying import keep_trying, problem_of
from dream_o.errors import UserError

# What a batch needs while it runs; deleted at its end.
HIDDEN = ".batch"
# An object of these appears whole when its upload ends. On other file systems a file is written
# under another name first.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az", "oss", "memory"})
# The package that fsspec needs for a scheme, where it is not the scheme's own name.
PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
# What a disk without hard links answers.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)

Answer = TypeVar("Answer")


def scheme_of(address: str) -> str | None:
    """The scheme of an address, such as `s3`; None for a path of this machine."""
    found = SCHEME.match(address)
    return found[1].lower() if found else None


def parent_of(address: str) -> str:
    """The folder that a file is in, without a slash at its end; absolute on this machine."""
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


def _create_here(target: Path, content: bytes) -> None:
    """Writes a file that appears whole; raises FileExistsError if there is one."""
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
    """The output folder cannot be read or written, also after several tries."""


class Storage:
    """A folder; every file in it appears whole or not at all.

    Instances can be pickled. Paths are relative to the folder, with `/` between the parts. What a
    storage that is not of this machine refuses is tried again (`dream_o.batch.trying`).

    Args:
        address: a path of this machine, or an address that fsspec opens, such as `s3://...`.

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
        """Writes a file; replaces the one that is there.

        Raises:
            StorageError: it cannot be written.
        """
        with self.writing(path) as file:
            file.write(content)

    def create(self, path: str, content: bytes) -> bool:
        """Writes a file if there is none; returns whether it did.

        Of two machines that do this at once, one gets True on local and shared disks, on S3 and on
        most other stores. A caller who must be sure reads the file afterwards.

        Raises:
            StorageError: it cannot be written.
        """
        if self.read(path) is not None:
            return False
        target = f"{self.root}/{path}"
        folder = target.rpartition("/")[0]

        def make() -> None:
            if isinstance(self.system, LocalFileSystem):
                _create_here(Path(target), content)
                return
            try:
                self.system.pipe_file(target, content, mode="create")
            except (TypeError, NotImplementedError):  # fsspec: a file system may lack this mode
                self.system.pipe_file(target, content)

        try:
            if scheme_of(self.address) not in OBJECT_STORES:
                self.system.makedirs(folder, exist_ok=True)
            self._do(make, "written")
        except FileExistsError:
            if self.system.isfile(target):
                return False
            raise StorageError("the output cannot be written: it is a file, not a folder") from None
        except OSError as error:
            raise StorageError(f"the output cannot be written: {problem_of(error)}") from error
        return True

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        """An open binary file that becomes `path` when the block ends without an error.

        Raises:
            StorageError: it cannot be written.
        """
        write = self._write_here if self.folder is not None else self._write_away
        try:
            with write(path) as file:
                yield file
        except OSError as error:
            raise StorageError(f"the output cannot be written: {problem_of(error)}") from error

    @contextmanager
    def _write_here(self, path: str) -> Iterator[BinaryIO]:
        target = Path(self.address, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Journals are written twice an image, and one that is damaged costs only its images.
        with atomic_write(target, durable=not path.startswith(f"{HIDDEN}/")) as file:
            yield file

    @contextmanager
    def _write_away(self, path: str) -> Iterator[BinaryIO]:
        target = f"{self.root}/{path}"
        with tempfile.NamedTemporaryFile() as file:
            yield file  # type: ignore[misc]  # a file in all but name
            file.flush()
            self._do(lambda: self._upload(file.name, target), "written")

    def _upload(self, source: str, target: str) -> None:
        # An object appears when its upload ends; elsewhere a file gets its name when it is whole.
        if scheme_of(self.address) in OBJECT_STORES:
            self.system.put_file(source, target)
            return
        self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.system.put_file(source, f"{target}.unfinished")
        self.system.mv(f"{target}.unfinished", target)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """A file's bytes from `start` to before `end`; None if there is no such file.

        Raises:
            StorageError: it cannot be read.
        """
        place = f"{self.root}/{path}"
        content: bytes
        try:
            content = self._do(lambda: self.system.cat_file(place, start=start, end=end), "read")
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def opened(self, path: str) -> BinaryIO:
        """A file, open for reading; raises StorageError if it cannot be opened."""
        file: BinaryIO = self._do(lambda: self.system.open(f"{self.root}/{path}", "rb"), "read")
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
        """Whether two paths are one file; on some disks, upper and lower case are the same."""
        if self.folder is None or path.lower() != other.lower():
            return path == other
        try:
            return (self.folder / path).samefile(self.folder / other)
        except FileNotFoundError:
            return False

    def remove(self, path: str) -> None:
        """Deletes a file; nothing happens if there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._do(lambda: self.system.rm_file(f"{self.root}/{path}"), "written")

    def remove_folder(self, path: str) -> None:
        """Deletes a folder with everything in it; nothing happens if there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._do(lambda: self.system.rm(f"{self.root}/{path}", recursive=True), "written")

    def remove_if_empty(self) -> None:
        """Deletes this folder if nothing is in it; object stores have no empty folders."""
        if self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()

    def _do(self, operation: Callable[[], Answer], done: str) -> Answer:
        """What the operation returns, after several tries if the storage is not of this machine.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no such file.
            FileExistsError: there is such a file.
            StorageError: the output cannot be `done`.
        """
        try:
            return operation() if self.folder is not None else keep_trying(operation)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, UserError):
            raise
        except Exception as error:
            raise StorageError(f"the output cannot be {done}: {problem_of(error)}") from error

    def _entries(self, folder: str) -> Iterator[tuple[str, str]]:
        place = f"{self.root}/{folder}".rstrip("/")
        self.system.invalidate_cache()
        try:
            entries = self._do(lambda: self.system.ls(place, detail=True), "read")
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if name and entry["name"].rstrip("/") != place:
                yield f"{folder}/{name}".lstrip("/"), entry["type"]
