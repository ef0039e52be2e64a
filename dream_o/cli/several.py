"""`dream-o predict --count N`: the seeds of several images, and their contact sheet."""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dream_o.errors import UserError
from dream_o.images.sheet import Cell, contact_sheet
from dream_o.images.writing import write_image
from dream_o.service.seeds import consecutive_seeds

MOST = 100
# The longer side of an image on the sheet in pixels, and the quality of the sheet.
SIDE = 384
QUALITY = 90


def check_count(count: int, sheet: bool, predictor: Any) -> None:
    """Raises UserError if the predictor cannot make that many images, or the sheet has too few."""
    if not 1 <= count <= MOST:
        raise UserError(f"--count {count}: use 1 to {MOST}")
    if count > 1 and "seed" not in inspect.signature(predictor.predict).parameters:
        raise UserError("--count: this predictor has no seed; leave the option out")
    if sheet and count == 1:
        raise UserError("--contact-sheet shows several images; add --count N")


def seeds_of(count: int, given: int | None) -> Sequence[int | None]:
    """The `seed` input of each image; a single image keeps the one that was given.

    Raises:
        InputError: a seed is out of range.
    """
    return [given] if count == 1 else consecutive_seeds(given, count)


class ContactSheet:
    """Small copies of images, each under its seed, in rows that make the sheet about square."""

    def __init__(self) -> None:
        self._cells: list[Cell] = []

    def add(self, image: Path, seed: int | None) -> None:
        """Adds an image file."""
        with Image.open(image) as opened:
            small = opened.convert("RGBA" if "A" in opened.getbands() else "RGB")
        small.thumbnail((SIDE, SIDE))
        self._cells.append(Cell([small], f"seed {seed}"))

    def write(self) -> Path:
        """Writes the sheet to a temporary webp file."""
        columns = math.ceil(math.sqrt(len(self._cells)))
        rows = [
            self._cells[first : first + columns] for first in range(0, len(self._cells), columns)
        ]
        return write_image(contact_sheet(rows, SIDE), "webp", QUALITY, {})
