"""The results of each browser, on disk: an image with its metadata, and the references it used."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from dream_o.atomic import atomic_write
from dream_o.errors import UserError, disk_problem
from dream_o.images.writing import read_metadata, write_image
from dream_o.service.request import Reference
from dream_o.service.result import Result

logger = logging.getLogger(__name__)

# The key in a browser's local storage: 128 random bits in hexadecimal. Whoever has it can list and
# delete the browser's images, so folders and addresses contain a digest of it instead.
KEY = PLACE = re.compile(r"[0-9a-f]{32}")
# The time of writing in UTC, to the microsecond, and the seed: names sort by time.
NAME = re.compile(r"\d{8}-\d{6}-\d{6}-\d{1,20}\.(webp|jpg|png)")
REFERENCES = "references"
# Characters of a digest that name a folder.
FOLDER_CHARACTERS = 32


@dataclass(frozen=True)
class Entry:
    """One result.

    Attributes:
        name: the file's name, without a folder.
        path: the file.
        metadata: what the image was made with, as in the file.
        references: by slot, from 1: the kept file of each reference, and its task.
    """

    name: str
    path: Path
    metadata: Mapping[str, Any]
    references: Mapping[int, Reference]


def place_of(key: str) -> str:
    """The name of a browser's folder, which stands in the addresses of its images.

    Raises:
        UserError: the key is not valid.
    """
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise UserError("this page is not known to the server; reload it")
    return hashlib.sha256(key.encode()).hexdigest()[:FOLDER_CHARACTERS]


class Outputs:
    """The results of all browsers; each browser sees its own.

    Args:
        folder: is made when the first result is stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # `add` stores a reference before a `NAME.json` names it; the lock keeps `delete` from
        # removing it meanwhile.
        self._lock = Lock()

    def add(
        self,
        key: str,
        result: Result,
        output_format: str,
        output_quality: int,
        references: Sequence[Reference] = (),
    ) -> Entry:
        """Keeps a result and its references.

        Raises:
            UserError: the key is not valid, or the files cannot be written.
        """
        folder = self._folder(key)
        metadata = result.metadata | {
            "output_format": output_format,
            "output_quality": output_quality,
        }
        now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        name = f"{now}-{result.metadata['seed']}.{output_format}"
        with self._lock:
            try:
                (folder / REFERENCES).mkdir(parents=True, exist_ok=True)
                kept = {
                    slot: {"file": self._keep(folder, Path(each.file)), "task": each.task}
                    for slot, each in enumerate(references, start=1)
                    if each.file is not None
                }
                with atomic_write(folder / f"{name}.json") as file:
                    file.write(json.dumps({"references": kept}).encode())
                written = write_image(result.image, output_format, output_quality, metadata, folder)
                written.rename(folder / name)
            except (OSError, UserError) as error:
                with suppress(OSError):  # the folder may be unwritable
                    self._remove(folder, name)
                if isinstance(error, UserError):
                    raise
                problem = disk_problem(error)
                raise UserError(f"the image cannot be kept: {problem}") from error
        return self.entry(key, name)

    def names(self, key: str) -> list[str]:
        """The names of a browser's results, newest first."""
        folder = self._folder(key)
        if not folder.is_dir():
            return []
        names = (path.name for path in folder.iterdir())
        return sorted(filter(NAME.fullmatch, names), reverse=True)

    def path(self, key: str, name: str) -> Path:
        """The file of a result.

        Raises:
            UserError: this browser has no such result.
        """
        return self.at(place_of(key), name)

    def at(self, place: str, name: str) -> Path:
        """The file of a result, from `place_of(key)` and its name; raises as `path` does."""
        path = self.folder / place / name
        if not (PLACE.fullmatch(place) and NAME.fullmatch(name) and path.is_file()):
            raise UserError("there is no such image; it may have been deleted")
        return path

    def entry(self, key: str, name: str) -> Entry:
        """A result with its settings; raises as `path` does."""
        path = self.path(key, name)
        kept = _kept(path.with_name(f"{name}.json"))
        references = {slot: each for slot, each in kept.items() if Path(str(each.file)).is_file()}
        return Entry(name, path, read_metadata(path), references)

    def newest(self, key: str, count: int) -> list[Entry]:
        """The newest results of a browser, without damaged images."""
        entries = []
        for name in self.names(key)[:count]:
            with suppress(UserError):
                entries.append(self.entry(key, name))
        return entries

    def delete(self, key: str, name: str) -> None:
        """Deletes a result, and the references that no other result of the browser uses."""
        folder = self.path(key, name).parent
        with self._lock:
            self._remove(folder, name)

    def _remove(self, folder: Path, name: str) -> None:
        """Removes a result's files, and the references that no `NAME.json` names any more."""
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.json").unlink(missing_ok=True)
        used = {each.file for path in folder.glob("*.json") for each in _kept(path).values()}
        for file in (folder / REFERENCES).iterdir():
            if file not in used:
                file.unlink()

    def _folder(self, key: str) -> Path:
        return self.folder / place_of(key)

    def _keep(self, folder: Path, image: Path) -> str:
        content = image.read_bytes()
        suffix = image.suffix.lower() if re.fullmatch(r"\.\w{1,5}", image.suffix) else ""
        target = folder / REFERENCES / (hashlib.sha256(content).hexdigest() + suffix)
        if not target.is_file():
            with atomic_write(target) as file:
                file.write(content)
        return target.name


def _kept(path: Path) -> dict[int, Reference]:
    """The references in a `NAME.json`, by slot; none if the file is gone or damaged."""
    folder = path.parent / REFERENCES
    try:
        kept = json.loads(path.read_bytes())["references"]
        return {
            int(slot): Reference(folder / each["file"], each["task"]) for slot, each in kept.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError):
        logger.warning("%s is damaged; its image is shown without its references", path.name)
        return {}
