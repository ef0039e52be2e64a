"""What an image shows: the image of the drawn world that is nearest to it.

Only the sprinkled tiles of an image of the world are unknown, so the nearest of all candidates is
the best guess; `right_on_true_renders` measures how often it is right for true ones.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dream_o.sizes import TOKEN_PIXELS
from training.miniature.colours import COLOURS, HAIRS, PALETTES, SKINS
from training.miniature.faces import LENGTHS
from training.miniature.scenes import SCENES
from training.miniature.subjects import PATTERNS, SHAPES, SIDE
from training.miniature.world import Person, Picture, Subject, draw_tiles, subject_at

Tiles = NDArray[np.float32]


def tiles_of(image: Image.Image) -> Tiles:
    """The mean colour of each tile of an image, `(rows, columns, 3)` from 0 to 255."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    rows, columns = pixels.shape[0] // TOKEN_PIXELS, pixels.shape[1] // TOKEN_PIXELS
    return pixels.reshape(rows, TOKEN_PIXELS, columns, TOKEN_PIXELS, 3).mean(axis=(1, 3))


@lru_cache(maxsize=4096)  # 200 MB at the largest size
def _mean_picture(picture: Picture, rows: int, columns: int) -> Tiles:
    random = np.random.default_rng(0)
    draws = [draw_tiles(picture, rows, columns, random).astype(np.float32) for _ in range(2)]
    return np.mean(draws, axis=0)


def subject_pictures(copied: bool = False) -> list[Picture]:
    """Every image of a subject, of a prompt's or of a reference's."""
    return [
        Picture(scene, Subject(*look), copied=copied)
        for scene in SCENES
        for look in product(SHAPES, COLOURS, PATTERNS)
    ]


def person_pictures() -> list[Picture]:
    """Every image of a person."""
    return [
        Picture(scene, person=Person(*look))
        for scene in SCENES
        for look in product(SKINS, HAIRS, LENGTHS, COLOURS)
    ]


def _nearest(tiles: Tiles, candidates: list[Picture], where: Any = ...) -> Picture:
    part = tiles[where]
    size = tiles.shape[:2]
    distances = [
        float(np.abs(_mean_picture(each, *size)[where] - part).sum()) for each in candidates
    ]
    return candidates[int(np.argmin(distances))]


def judge(tiles: Tiles, kind: str) -> Picture:
    """The nearest image of a kind.

    Args:
        tiles: at least 48 x 48, as `tiles_of` gives them.
        kind: `subject` of a prompt, `copied` subject of a reference, `person`, `both` (a person
            and a reference's subject) or `style` (of a prompt's subject).
    """
    if kind in ("subject", "copied"):
        return _nearest(tiles, subject_pictures(kind == "copied"))
    if kind == "person":
        return _nearest(tiles, person_pictures())
    if kind == "style":
        few = [replace(each, palette=name) for name in PALETTES for each in subject_pictures()[::5]]
        return _nearest(tiles, few)
    # Two steps: first the person, without the thing beside them; then the thing.
    top, left = subject_at(True, *tiles.shape[:2])
    frame = (slice(top, top + SIDE), slice(left, left + SIDE))
    around = np.ones(tiles.shape[:2], bool)
    around[frame] = False
    person = _nearest(tiles, person_pictures(), around)
    both = [
        replace(person, subject=Subject(*look), copied=True)
        for look in product(SHAPES, COLOURS, PATTERNS)
    ]
    return _nearest(tiles, both, frame)


def kind_of(picture: Picture) -> str:
    """The kind of an image, as `judge` takes it."""
    if picture.palette:
        return "style"
    if picture.person:
        return "both" if picture.subject else "person"
    return "copied" if picture.copied else "subject"


def right_on_true_renders(
    random: np.random.Generator, pictures: list[Picture], rows: int = 64, columns: int = 64
) -> float:
    """The share of true images of that size for which the judge is right about every attribute."""
    right = 0
    for picture in pictures:
        tiles = draw_tiles(picture, rows, columns, random).astype(np.float32)
        shown = judge(tiles, kind_of(picture))
        right += shown.palette == picture.palette if picture.palette else shown == picture
    return right / len(pictures)
