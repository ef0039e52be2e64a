"""Chooses the format and file name of a prediction's image, without overwriting other files."""

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


@dataclass(frozen=True)
class Output:
    """Where an image and its preview go.

    Attributes:
        named: the argument of `-o`: a file, `-` for standard output, or None for the first free
            name of `output.<suffix>`, `output-2.<suffix>` and so on in the working folder.
        suffix: the suffix of automatic names, such as `.webp`.
        overwrite: whether an existing file may be replaced.
    """

    named: Path | None
    suffix: str
    overwrite: bool

    def check(self, preview: bool) -> None:
        """Raises UserError unless the files can be written; called before anything is loaded."""
        if self.named == STANDARD_OUTPUT:
            if preview:
                raise UserError("--preview names its file after the image; give -o FILE")
            return
        if self.named is None:
            _check_folder(Path(f"output{self.suffix}"))
            return
        self._check(self.named)
        if preview:
            self._check(preview_of(self.named))

    def publish(self, made: Path, sheet: Path | None) -> Path | None:
        """Copies the image and its preview; returns the image's path, None for standard output.

        Raises:
            UserError: the file was created by another process after `check`; it is kept.
        """
        if self.named == STANDARD_OUTPUT:
            sys.stdout.buffer.write(made.read_bytes())
            sys.stdout.buffer.flush()
            return None
        sources = [made] if sheet is None else [made, sheet]
        if self.named and self.overwrite:
            targets = [self.named, preview_of(self.named)][: len(sources)]
            _copy(sources, targets)
            return self.named
        targets = self._claimed(len(sources))
        try:
            _copy(sources, targets)
        finally:
            _release(targets)
        return targets[0]

    def _check(self, target: Path) -> None:
        if target.exists() and not target.is_file():
            raise UserError(f"-o {target}: this is not a regular file; name one")
        if target.exists() and not self.overwrite:
            raise _exists(target)
        _check_folder(target)

    def _claimed(self, files: int) -> list[Path]:
        for name in [self.named] if self.named else _names(self.suffix):
            targets = [name, preview_of(name)][:files]
            if _claim(targets):
                return targets
        raise _exists(targets[0])  # automatic names never run out, so `-o` named this file


def preview_of(output: Path) -> Path:
    """Where the preview goes: `NAME.references.webp` beside the output `NAME.<format>`."""
    return output.with_name(f"{output.stem}.references.webp")


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


def _claim(targets: Sequence[Path]) -> bool:
    """Creates all targets as empty files and returns True, or creates none if one exists.

    Creation is exclusive, so that two processes never get the same name.
    """
    for made, target in enumerate(targets):
        try:
            target.open("xb").close()
        except FileExistsError:
            _release(targets[:made])
            return False
    return True


def _release(targets: Sequence[Path]) -> None:
    """Removes claimed targets that are still empty."""
    for target in targets:
        with suppress(FileNotFoundError):
            if not target.stat().st_size:
                target.unlink()


def _copy(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    for made, target in zip(sources, targets, strict=True):
        with made.open("rb") as source, atomic_write(target) as file:
            shutil.copyfileobj(source, file)


def _exists(target: Path) -> UserError:
    return UserError(
        f"-o {target}: the file exists; add --overwrite to replace it, or name another"
    )
