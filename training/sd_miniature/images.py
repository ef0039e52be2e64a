"""The images of DreamRender's miniature: a thing in a place or on a plain background, in a style.

The world is the same as dream-o's, with more things. A tile is 8 x 8 pixels, one latent, in an
image of 512 x 512 pixels; in other sizes the image is scaled with its shorter side.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.colours import ALL_COLOURS
from training.world.looks import LOOKS, in_look
from training.world.scenes import PLAIN, SCENES, draw_plain, draw_scene
from training.world.subjects import ALL_SHAPES, PATTERNS, draw_subject
from training.world.words import one_of

Tiles = NDArray[np.uint8]

GRID = 64
"""The tiles of an image's shorter side."""

FRAME, FRAME_ROW = 48, 12
"""The side of the thing's frame, which is centred from left to right, and its first row."""

THINGS = tuple(ALL_SHAPES)
COLOURS = tuple(ALL_COLOURS)
GROUNDS = (*SCENES, *PLAIN)


@dataclass(frozen=True)
class Shown:
    """What an image shows.

    Attributes:
        thing: one of THINGS.
        colour: one of COLOURS.
        pattern: one of PATTERNS.
        ground: one of GROUNDS, a place or a plain background.
        style: a key of LOOKS, or None.
    """

    thing: str
    colour: str
    pattern: str
    ground: str
    style: str | None = None


def random_shown(random: np.random.Generator) -> Shown:
    """A random image: most have no pattern and no style, six in ten show a place."""
    return Shown(
        one_of(random, THINGS),
        one_of(random, COLOURS),
        one_of(random, PATTERNS) if random.random() < 0.3 else "plain",
        one_of(random, tuple(SCENES) if random.random() < 0.6 else tuple(PLAIN)),
        one_of(random, tuple(LOOKS)) if random.random() < 0.35 else None,
    )


def draw(shown: Shown, rows: int, columns: int, random: np.random.Generator) -> Tiles:
    """Draws an image in latents, `(rows, columns, 3)`; only stars, snow and grass are random."""
    scale = GRID / min(rows, columns)
    high, wide = max(GRID, round(rows * scale)), max(GRID, round(columns * scale))
    tiles = _draw_ground(shown.ground, high, wide, random)
    drawn, there = draw_subject(shown.thing, shown.colour, shown.pattern, FRAME)
    left = (wide - FRAME) // 2
    tiles[FRAME_ROW : FRAME_ROW + FRAME, left : left + FRAME][there] = drawn[there]
    if shown.style is not None:
        tiles = in_look(tiles, LOOKS[shown.style])
    if tiles.shape[:2] == (rows, columns):
        return tiles
    kind = cv2.INTER_AREA if scale > 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(tiles, (columns, rows), interpolation=kind), np.uint8)


def _draw_ground(ground: str, rows: int, columns: int, random: np.random.Generator) -> Tiles:
    if ground in PLAIN:
        return draw_plain(ground, rows, columns)
    # A scene extends to the right. In a wide image, its left part is drawn once more beside it.
    left = (columns - GRID) // 2
    scene = draw_scene(ground, rows, columns - left, random)
    return np.concatenate([draw_scene(ground, rows, left, random), scene], axis=1)
