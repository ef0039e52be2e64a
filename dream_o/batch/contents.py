"""References inside the file of requests, as data URLs or bytes.

Each distinct reference is stored once, as a file. So rows stay small: they have the path of the
file instead of the image.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dream_o.batch.reading import Row
from dream_o.batch.references import DATA
from dream_o.batch.storage import HIDDEN, Storage, temporary_folder_error
from dream_o.errors import InputError, disk_problem
from dream_o.images.opening import file_hash
from dream_o.server.inputs import MAX_DOWNLOAD_BYTES, open_file

REFERENCES = f"{HIDDEN}/references"
SENT = ".sent"
"""The suffix of the empty file that marks a reference as copied to the output folder."""


class Contents:
    """A folder on this machine with a file for each distinct reference, named by its SHA-256.

    Args:
        folder: the folder; it must exist.
        names: the inputs that are files.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        self.names = tuple(names)
        # The last content of each input and its file: consecutive rows often have the same content.
        self._last: dict[str, tuple[str | bytes, str]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Contents, (self.folder, self.names)

    def keep(self, row: Row) -> Row:
        """Stores a row's references and decodes the bytes of its other inputs.

        Returns:
            The row with paths in place of references. `refused` names the values that cannot be
            used.

        Raises:
            UserError: the folder cannot be written.
        """
        values, refused = dict(row.values), dict(row.refused)
        for name, value in row.values.items():
            try:
                if name in self.names and _is_content(value):
                    values[name] = self._kept(name, value)
                elif isinstance(value, bytes):
                    values[name] = value.decode()
            except InputError as error:
                refused[name] = error.problem
            except OSError as error:
                raise temporary_folder_error(disk_problem(error)) from error
            except UnicodeDecodeError:
                refused[name] = "the bytes are not text in UTF-8; store the column as text"
            if name in refused:
                del values[name]
        return replace(row, values=values, refused=refused)

    def with_data_urls(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with data URLs in place of the paths that `keep` returned."""
        return {
            name: as_data_url(Path(value).read_bytes()) if self._is_kept(value) else value
            for name, value in values.items()
        }

    def send(self, inputs: Mapping[str, Any], storage: Storage) -> dict[str, Any]:
        """Copies the inputs' references to the output folder, each only once.

        Returns:
            The inputs with addresses that every machine can open.

        Raises:
            StorageError: the output folder cannot be written.
        """
        sent = dict(inputs)
        for name in self.names:
            if self._is_kept(inputs.get(name)):
                sent[name] = self._sent(Path(inputs[name]), storage)
        return sent

    def _sent(self, content: Path, storage: Storage) -> str:
        path = f"{REFERENCES}/{content.name}"
        mark = content.with_name(content.name + SENT)
        if not mark.exists():
            storage.write(path, content.read_bytes())
            mark.touch()
        return f"{storage.address}/{path}"

    def _is_kept(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(f"{self.folder}/")

    def _kept(self, name: str, value: str | bytes) -> str:
        last = self._last.get(name)
        if last is None or last[0] != value:
            last = self._last[name] = (value, str(self._written(name, value)))
        return last[1]

    def _written(self, name: str, value: str | bytes) -> Path:
        if isinstance(value, str):
            new = open_file(name, value, self.folder)
            return Path(new).replace(self.folder / file_hash(Path(new), name))
        if len(value) > MAX_DOWNLOAD_BYTES:
            raise InputError(name, f"the image is larger than {MAX_DOWNLOAD_BYTES // 10**6} MB")
        path = self.folder / hashlib.sha256(value).hexdigest()
        if not path.exists():
            path.write_bytes(value)
        return path


def _is_content(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, str) and value.startswith(DATA))


def as_data_url(content: bytes) -> str:
    """A file's bytes as a data URL."""
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
