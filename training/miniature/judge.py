"""Recognises the contents of an image: those of the most similar image of the drawn world.

Only the sprinkled tiles of the world's images are random, so the most similar of all candidates is
the best guess. `right_on_true_renders` measures how often it is right.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dream_o.sizes import TOKEN_PIXELS
from training.world.colours import COLOURS, HAIRS, PALETTES, SKINS
from training.world.drawing import (
    COUNTS,
    PERSON_AT,
    SUBJECT_AT,
    Contents,
    Person,
    Subject,
    draw_over,
    draw_tiles,
    subject_at,
)
from training.world.faces import BARE, COLUMNS, LENGTHS, WORN
from training.world.scenes import SCENES, draw_scene
from training.world.subjects import ALL_SHAPES, PATTERNS, SIDE

Tiles = NDArray[np.float32]

# The tiles of an image, at any size: those that nothing covers, above things and right of people;
# those of a prompt's things; those of people.
FREE = (slice(0, SUBJECT_AT[0]), slice(PERSON_AT[1] + COLUMNS, None))
THINGS = (slice(SUBJECT_AT[0], SUBJECT_AT[0] + SIDE), slice(0, SUBJECT_AT[1] + SIDE))
PEOPLE = (slice(PERSON_AT[0], None), slice(0, PERSON_AT[1] + COLUMNS))


def tiles_of(image: Image.Image) -> Tiles:
    """The mean colour of each tile of an image, `(rows, columns, 3)` from 0 to 255."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    rows, columns = pixels.shape[0] // TOKEN_PIXELS, pixels.shape[1] // TOKEN_PIXELS
    return pixels.reshape(rows, TOKEN_PIXELS, columns, TOKEN_PIXELS, 3).mean(axis=(1, 3))


@lru_cache(maxsize=64)
def _mean_scene(scene: str, rows: int, columns: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(0)
    draws = [draw_scene(scene, rows, columns, random).astype(np.float32) for _ in range(8)]
    return np.mean(draws, axis=0).round().astype(np.uint8)


@lru_cache(maxsize=4096)  # 50 MB at the largest size
def _mean_tiles(contents: Contents, rows: int, columns: int) -> NDArray[np.uint8]:
    return draw_over(_mean_scene(contents.scene, rows, columns).copy(), contents)


def subject_candidates(scene: str, copied: bool = False) -> list[Contents]:
    """The contents of every image of a place with things from a prompt, or a copied thing."""
    counts = COUNTS[:1] if copied else COUNTS
    return [
        Contents(scene, Subject(*look), copied=copied)
        for look in product(ALL_SHAPES, COLOURS, PATTERNS, counts)
    ]


def person_candidates(scene: str) -> list[Contents]:
    """The contents of every image of a place with a person."""
    return [
        Contents(scene, person=Person(*look))
        for look in product(SKINS, HAIRS, LENGTHS, COLOURS, (BARE, *WORN))
    ]


def _nearest(tiles: Tiles, candidates: list[Contents], where: Any = ...) -> Contents:
    part = tiles[where]
    size = tiles.shape[:2]
    distances = [float(np.abs(_mean_tiles(each, *size)[where] - part).sum()) for each in candidates]
    return candidates[int(np.argmin(distances))]


def judge(tiles: Tiles, kind: str) -> Contents:
    """The contents of the most similar image of a kind; of a style, only place and palette.

    The place comes first, from the tiles that are FREE, and then what is there.

    Args:
        tiles: at least 48 x 48, as `tiles_of` returns them.
        kind: `subject` (from a prompt), `copied` (a subject from a reference), `person`, `both` (a
            person and a copied subject) or `style` (an image with a palette).
    """
    if kind == "style":
        inks = [Contents(scene, palette=name) for scene, name in product(SCENES, PALETTES)]
        return _nearest(tiles, inks, FREE)
    scene = _nearest(tiles, [Contents(each) for each in SCENES], FREE).scene
    top, left = subject_at(True, *tiles.shape[:2])
    frame = (slice(top, top + SIDE), slice(left, left + SIDE))
    if kind in ("subject", "copied"):
        copied = kind == "copied"
        return _nearest(tiles, subject_candidates(scene, copied), frame if copied else THINGS)
    if kind == "person":
        return _nearest(tiles, person_candidates(scene), PEOPLE)
    # First the person, ignoring the tiles of the thing; then the thing.
    around = np.ones(tiles.shape[:2], bool)
    around[frame] = False
    person = _nearest(tiles, person_candidates(scene), around)
    both = [
        replace(person, subject=Subject(*look), copied=True)
        for look in product(ALL_SHAPES, COLOURS, PATTERNS)
    ]
    return _nearest(tiles, both, frame)


def kind_of(contents: Contents) -> str:
    """The kind of an image, for `judge`."""
    if contents.palette:
        return "style"
    if contents.person:
        return "both" if contents.subject else "person"
    return "copied" if contents.copied else "subject"


def right_on_true_renders(
    random: np.random.Generator, true: list[Contents], rows: int = 64, columns: int = 64
) -> float:
    """The share of true images of this size on which the judge gets every attribute right."""
    right = 0
    for contents in true:
        tiles = draw_tiles(contents, rows, columns, random).astype(np.float32)
        shown = judge(tiles, kind_of(contents))
        right += shown.palette == contents.palette if contents.palette else shown == contents
    return right / len(true)
