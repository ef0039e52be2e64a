"""What a picture shows: the picture of the drawn world that is nearest to it.

A picture of the world is known but for its sprinkled tiles, so the nearest of all candidates is
the best guess there is; `right_on_true_renders` shows how often it is right about true ones.
"""

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dream_o.miniature.colours import COLOURS, HAIRS, PALETTES, SKINS
from dream_o.miniature.faces import LENGTHS
from dream_o.miniature.scenes import SCENES
from dream_o.miniature.subjects import PATTERNS, SHAPES
from dream_o.miniature.world import Person, Picture, Subject, draw_tiles
from dream_o.sizes import TOKEN_PIXELS

ROWS, COLUMNS = 64, 64
Tiles = NDArray[np.float32]
# Where a held subject is, and the rest of a person, in rows and columns.
HELD = (slice(33, 49), slice(31, 47))
# The part of the canvas that every size shows.
SHARED = (slice(0, 48), slice(0, 48))


def tiles_of(image: Image.Image) -> Tiles:
    """The mean colour of each tile of an image, `(rows, columns, 3)` from 0 to 255."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    rows, columns = pixels.shape[0] // TOKEN_PIXELS, pixels.shape[1] // TOKEN_PIXELS
    return pixels.reshape(rows, TOKEN_PIXELS, columns, TOKEN_PIXELS, 3).mean(axis=(1, 3))


@cache
def _mean_picture(picture: Picture) -> Tiles:
    random = np.random.default_rng(0)
    draws = [draw_tiles(picture, ROWS, COLUMNS, random).astype(np.float32) for _ in range(2)]
    return np.mean(draws, axis=0)[SHARED]


@cache
def subject_pictures(palette: str | None = None) -> tuple[Picture, ...]:
    """Every picture of a subject."""
    return tuple(
        Picture(scene, Subject(*look), palette=palette)
        for scene in SCENES
        for look in product(SHAPES, COLOURS, PATTERNS)
    )


@cache
def person_pictures() -> tuple[Picture, ...]:
    """Every picture of a person."""
    return tuple(
        Picture(scene, person=Person(*look))
        for scene in SCENES
        for look in product(SKINS, HAIRS, LENGTHS, COLOURS)
    )


def _nearest(tiles: Tiles, candidates: tuple[Picture, ...], where: Any = ...) -> Picture:
    part = tiles[where]
    distances = [float(np.abs(_mean_picture(each)[where] - part).sum()) for each in candidates]
    return candidates[int(np.argmin(distances))]


def judge(tiles: Tiles, kind: str) -> Picture:
    """The nearest picture of a kind: `subject`, `person`, `both` or `style` (of a subject).

    Args:
        tiles: at least 48 x 48, as `tiles_of` gives them.
    """
    tiles = tiles[SHARED]
    if kind == "subject":
        return _nearest(tiles, subject_pictures())
    if kind == "person":
        return _nearest(tiles, person_pictures())
    if kind == "style":
        few = tuple(replace(each, palette=name) for name in PALETTES
                    for each in subject_pictures()[::5])  # fmt: skip
        return _nearest(tiles, few)
    # Two steps: the person without what they hold, then what they hold.
    hidden = np.ones(tiles.shape[:2], bool)
    hidden[HELD] = False
    person = _nearest(tiles, person_pictures(), hidden)
    held = tuple(
        replace(person, subject=Subject(*look)) for look in product(SHAPES, COLOURS, PATTERNS)
    )
    return _nearest(tiles, held, HELD)


def right_on_true_renders(random: np.random.Generator, pictures: list[Picture]) -> float:
    """The share of true pictures about which the judge is right in everything."""
    right = 0
    for picture in pictures:
        tiles = draw_tiles(picture, ROWS, COLUMNS, random).astype(np.float32)
        kind = "both" if picture.subject and picture.person else (
            "subject" if picture.subject else "person"
        )  # fmt: skip
        if picture.palette:
            right += judge(tiles, "style").palette == picture.palette
        else:
            right += judge(tiles, kind) == picture
    return right / len(pictures)
