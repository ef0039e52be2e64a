"""Recognises what an image shows: the most similar image of the drawn world."""

from functools import lru_cache
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.sd_miniature.images import COLOURS, GRID, GROUNDS, THINGS, Shown, draw
from training.world.subjects import PATTERNS

Tiles = NDArray[np.uint8]

# Images that are compared at once; more need more memory.
CHUNK = 450


def tiles_of(image: Image.Image) -> Tiles:
    """The mean colours of an image's tiles, `(rows, columns, 3)`; the shorter side has GRID."""
    tile = min(image.size) / GRID
    size = (round(image.width / tile), round(image.height / tile))
    pixels = np.asarray(image.convert("RGB"))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def every_shown() -> list[Shown]:
    """Every image without a style."""
    return [Shown(*each) for each in product(THINGS, COLOURS, PATTERNS, GROUNDS)]


@lru_cache(maxsize=2)  # 55 MB at 64 x 64 tiles
def _candidates(rows: int, columns: int) -> Tiles:
    random = np.random.default_rng(0)
    return np.stack([draw(each, rows, columns, random) for each in every_shown()])


def judge(tiles: Tiles) -> Shown:
    """What the most similar image shows; `tiles` as `tiles_of` returns them."""
    every = _candidates(*tiles.shape[:2])
    wanted = tiles.astype(np.int16)
    distances = np.concatenate(
        [
            np.abs(every[start : start + CHUNK] - wanted).sum(axis=(1, 2, 3))
            for start in range(0, len(every), CHUNK)
        ]
    )
    return every_shown()[int(np.argmin(distances))]


def right_on_true_images(count: int, rows: int = GRID, columns: int = GRID) -> float:
    """The share of random true images on which the judge is right in everything."""
    random = np.random.default_rng(1)
    every = every_shown()
    right = 0
    for place in random.integers(len(every), size=count):
        right += judge(draw(every[place], rows, columns, random)) == every[place]
    return right / count
