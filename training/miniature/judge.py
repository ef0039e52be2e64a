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
from training.world.drawing import Contents, Person, Subject, draw_tiles, subject_at
from training.world.faces import LENGTHS
from training.world.scenes import SCENES
from training.world.subjects import PATTERNS, SHAPES, SIDE

Tiles = NDArray[np.float32]


def tiles_of(image: Image.Image) -> Tiles:
    """The mean colour of each tile of an image, `(rows, columns, 3)` from 0 to 255."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    rows, columns = pixels.shape[0] // TOKEN_PIXELS, pixels.shape[1] // TOKEN_PIXELS
    return pixels.reshape(rows, TOKEN_PIXELS, columns, TOKEN_PIXELS, 3).mean(axis=(1, 3))


@lru_cache(maxsize=4096)  # 200 MB at the largest size
def _mean_tiles(contents: Contents, rows: int, columns: int) -> Tiles:
    random = np.random.default_rng(0)
    draws = [draw_tiles(contents, rows, columns, random).astype(np.float32) for _ in range(2)]
    return np.mean(draws, axis=0)


def subject_candidates(copied: bool = False) -> list[Contents]:
    """The contents of every image with a subject from a prompt, or copied from a reference."""
    return [
        Contents(scene, Subject(*look), copied=copied)
        for scene in SCENES
        for look in product(SHAPES, COLOURS, PATTERNS)
    ]


def person_candidates() -> list[Contents]:
    """The contents of every image with a person."""
    return [
        Contents(scene, person=Person(*look))
        for scene in SCENES
        for look in product(SKINS, HAIRS, LENGTHS, COLOURS)
    ]


def _nearest(tiles: Tiles, candidates: list[Contents], where: Any = ...) -> Contents:
    part = tiles[where]
    size = tiles.shape[:2]
    distances = [float(np.abs(_mean_tiles(each, *size)[where] - part).sum()) for each in candidates]
    return candidates[int(np.argmin(distances))]


def judge(tiles: Tiles, kind: str) -> Contents:
    """The contents of the most similar image of a kind.

    Args:
        tiles: at least 48 x 48, as `tiles_of` returns them.
        kind: `subject` (from a prompt), `copied` (a subject from a reference), `person`, `both` (a
            person and a copied subject) or `style` (a subject from a prompt, with a palette).
    """
    if kind in ("subject", "copied"):
        return _nearest(tiles, subject_candidates(kind == "copied"))
    if kind == "person":
        return _nearest(tiles, person_candidates())
    if kind == "style":
        few = [
            replace(each, palette=name) for name in PALETTES for each in subject_candidates()[::5]
        ]
        return _nearest(tiles, few)
    # First the person, ignoring the tiles of the thing; then the thing.
    top, left = subject_at(True, *tiles.shape[:2])
    frame = (slice(top, top + SIDE), slice(left, left + SIDE))
    around = np.ones(tiles.shape[:2], bool)
    around[frame] = False
    person = _nearest(tiles, person_candidates(), around)
    both = [
        replace(person, subject=Subject(*look), copied=True)
        for look in product(SHAPES, COLOURS, PATTERNS)
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
