"""Chooses the format and names of a prediction's files, without overwriting others."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from dream_o.atomic import atomic_write
from dream_o.errors import UserError

STANDARD_OUTPUT = Path("-")
# Other common suffixes of an output_format.
SUFFIX_FORMATS = {"jpeg": "jpg"}


def implied_format(
    output: Path, values: Mapping[str, Any], document: Mapping[str, Any]
) -> dict[str, str]:
    """The `output_format` that the suffix of `-o FILE` implies; empty if there is no suffix.

    Args:
        output: the argument of `-o`.
        values: the given inputs.
        document: the predictor's OpenAPI document; without an `output_format`, any suffix is
            allowed.

    Raises:
        UserError: the suffix is not a format, or contradicts the given `output_format`.
    """
    formats = document["components"]["schemas"].get("output_format", {}).get("enum", [])
    suffix = output.suffix.removeprefix(".").lower()
    if not formats or not suffix or output == STANDARD_OUTPUT:
        return {}
    implied = SUFFIX_FORMATS.get(suffix, suffix)
    if implied not in formats:
        *others, last = (f".{each}" for each in formats)
        raise UserError(
            f"-o {output}: {output.suffix} is not a format that can be written; "
            f"use {', '.join(others)} or {last}"
        )
    given = values.get("output_format", implied)
    if given != implied:
        raise UserError(
            f"-o {output}: the suffix contradicts output_format={given}; change one of them"
        )
    return {"output_format": implied}


REFERENCES, SHEET = ".references.webp", ".sheet.webp"
"""The suffixes of the files that are written beside an image."""

OPTIONS = {REFERENCES: "--preview", SHEET: "--contact-sheet"}


@dataclass
class Output:
    """Where the images of a command go, and the files beside them.

    Attributes:
        named: the argument of `-o`: a file, `-` for standard output, or None for the first free
            names of `output.<suffix>`, `output-2.<suffix>` and so on in the working folder. Several
            images of a named file are numbered: `name-1.<suffix>`, `name-2.<suffix>`.
        suffix: the suffix of automatic names, such as `.webp`.
        overwrite: whether existing files of `-o` may be replaced.
        images: the number of images.
        beside: REFERENCES, SHEET, both or neither.
    """

    named: Path | None
    suffix: str
    overwrite: bool
    images: int = 1
    beside: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._names = _names(self.suffix)

    def check(self) -> None:
        """Raises UserError unless the files can be written; called before anything is loaded."""
        if self.named == STANDARD_OUTPUT:
            for each in self.beside:
                raise UserError(f"{OPTIONS[each]} names its file after the image; give -o FILE")
            if self.images > 1:
                raise UserError("-o -: standard output takes one image; give -o FILE with --count")
        elif self.named is None:
            _check_folder(Path(f"output{self.suffix}"))
        else:
            for target in self._numbered(self.named):
                self._check(target)
            for each in self.beside:
                self._check(beside(self.named, each))

    def publish(self, made: Path, number: int = 1) -> Path | None:
        """Copies an image to its place.

        Args:
            made: the image's file.
            number: its number, from 1 to `images`.

        Returns:
            The image's path, or None for standard output.

        Raises:
            UserError: the file was created by another process after `check`; it is kept.
        """
        if self.named == STANDARD_OUTPUT:
            sys.stdout.buffer.write(made.read_bytes())
            sys.stdout.buffer.flush()
            return None
        if self.named is None:
            # What is beside the images has the first one's name.
            kept_free = self.beside if number == 1 else ()
            target = next(
                name
                for name in self._names
                if not any(beside(name, each).exists() for each in kept_free) and _claim(name)
            )
        else:
            target = self._numbered(self.named)[number - 1]
            if not self.overwrite and not _claim(target):
                raise _exists(target)
        self._copy(made, target)
        return target

    def publish_beside(self, made: Path, image: Path, suffix: str) -> Path:
        """Copies a file to its place beside `-o FILE`, or beside an image with an automatic name.

        Args:
            made: the file.
            image: the first image, as `publish` returned it.
            suffix: REFERENCES or SHEET.

        Raises:
            UserError: the file was created by another process after `check`; it is kept.
        """
        target = beside(self.named or image, suffix)
        if not (self.named and self.overwrite) and not _claim(target):
            raise _exists(target)
        self._copy(made, target)
        return target

    def _numbered(self, named: Path) -> list[Path]:
        if self.images == 1:
            return [named]
        numbers = range(1, self.images + 1)
        return [named.with_name(f"{named.stem}-{number}{named.suffix}") for number in numbers]

    def _check(self, target: Path) -> None:
        if target.exists() and not target.is_file():
            raise UserError(f"-o {target}: this is not a regular file; name one")
        if target.exists() and not self.overwrite:
            raise _exists(target)
        _check_folder(target)

    def _copy(self, made: Path, target: Path) -> None:
        try:
            with made.open("rb") as source, atomic_write(target) as file:
                shutil.copyfileobj(source, file)
        finally:
            # A claimed file that is still empty.
            with suppress(FileNotFoundError):
                if not target.stat().st_size:
                    target.unlink()


def beside(image: Path, suffix: str) -> Path:
    """`NAME<suffix>` in the folder of `NAME.<format>`."""
    return image.with_name(f"{image.stem}{suffix}")


def _check_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise UserError(
            f"-o {target}: the folder {target.parent} does not exist; create it or name another"
        )
    try:
        # Permissions alone are not enough: /proc looks writable to root.
        with tempfile.TemporaryFile(dir=target.resolve().parent):
            pass
    except OSError as error:
        raise UserError(
            f"-o {target}: the folder cannot be written to ({error.strerror}); name another folder"
        ) from error


def _names(suffix: str) -> Iterator[Path]:
    yield Path(f"output{suffix}")
    for number in count(2):
        yield Path(f"output-{number}{suffix}")


def _claim(target: Path) -> bool:
    """Creates an empty file and returns True, or returns False if there is one.

    Creation is exclusive, so that two processes never get the same name.
    """
    try:
        target.open("xb").close()
    except FileExistsError:
        return False
    return True


def _exists(target: Path) -> UserError:
    return UserError(
        f"-o {target}: the file exists; add --overwrite to replace it, or name another"
    )
