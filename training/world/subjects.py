"""Draws the subjects of the drawn world: small pixel images made of parts."""

from collections.abc import Callable, Mapping
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.colours import ALL_COLOURS, Colour, shade, tint
from training.world.parts import (
    BODY,
    DARK,
    EMPTY,
    INK,
    LEAF,
    LIGHT,
    SIDE,
    TRIM,
    WOOD,
    Parts,
    box,
    ellipse,
    paint,
    polygon,
)
from training.world.things import MORE_SHAPES

PATTERNS = ("plain", "striped", "dotted")
PATTERN_PERIOD = 6


def _heart(parts: Parts) -> None:
    turn = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    x = 16 * np.sin(turn) ** 3
    y = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    paint(parts, np.stack([16 + x * 0.84, 15 - y * 0.92], axis=1), BODY)


def _star(parts: Parts) -> None:
    turn = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 15.5, 6.8)
    paint(parts, np.stack([16 + radius * np.sin(turn), 17 - radius * np.cos(turn)], axis=1), BODY)


def _mug(parts: Parts) -> None:
    ellipse(parts, BODY, 22, 17, 9, 8.5)
    ellipse(parts, EMPTY, 22, 17, 5, 4.5)
    box(parts, BODY, 3, 6, 19, 24)
    box(parts, LIGHT, 5, 6, 15, 2)


def _fish(parts: Parts) -> None:
    polygon(parts, BODY, (20, 16), (31.5, 5), (31.5, 27))
    polygon(parts, TRIM, (10, 8), (20, 2), (20, 9))
    polygon(parts, TRIM, (12, 24), (19, 30), (20, 23))
    ellipse(parts, BODY, 13, 16, 12.5, 9)
    box(parts, LIGHT, 5, 12, 4, 4)
    box(parts, INK, 6, 13, 2, 2)


def _house(parts: Parts) -> None:
    box(parts, DARK, 22, 3, 4, 9)
    box(parts, BODY, 5, 14, 22, 17)
    polygon(parts, TRIM, (16, 0.5), (32, 15), (0, 15))
    box(parts, INK, 8, 21, 6, 10)
    box(parts, LIGHT, 18, 19, 6, 6)


def _cat(parts: Parts) -> None:
    polygon(parts, BODY, (3, 1), (13, 10), (4, 17))
    polygon(parts, BODY, (29, 1), (19, 10), (28, 17))
    ellipse(parts, BODY, 16, 19, 13.5, 11.5)
    for x in (9, 20):
        box(parts, LIGHT, x, 15, 3, 5)
        box(parts, INK, x + 1, 15, 1, 5)
    box(parts, INK, 14, 22, 4, 2)
    box(parts, INK, 15, 24, 2, 2)


ALL_SHAPES: Mapping[str, Callable[[Parts], None]] = {
    "heart": _heart,
    "star": _star,
    "mug": _mug,
    "fish": _fish,
    "house": _house,
    "cat": _cat,
    **MORE_SHAPES,
}
"""The things that the embedded models can draw."""


@cache
def subject_parts(shape: str, side: int = SIDE) -> Parts:
    """The part of the subject at each tile, `(side, side)`, with a dark outline."""
    parts = np.zeros((side, side), np.uint8)
    ALL_SHAPES[shape](parts)
    inside = np.pad(parts > 0, 1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    core = cv2.erode(inside.astype(np.uint8), cross)[1:-1, 1:-1] > 0
    parts[(parts > 0) & ~core] = DARK
    return parts


def pattern_mask(pattern: str, rows: int, columns: int) -> NDArray[np.bool_]:
    """The mask of a pattern's second colour."""
    row, column = np.mgrid[:rows, :columns] % PATTERN_PERIOD
    return {
        "plain": np.zeros((rows, columns), bool),
        "striped": column < PATTERN_PERIOD // 2,
        "dotted": (row % 5 >= 1) & (row < 4) & (column >= 1) & (column < 4),
    }[pattern]


def draw_subject(
    shape: str, colour: str, pattern: str, side: int = SIDE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draws a subject in tiles: colours `(side, side, 3)` and its mask `(side, side)`.

    Args:
        shape: a key of ALL_SHAPES.
        colour: a key of ALL_COLOURS.
        pattern: one of PATTERNS.
        side: rows and columns of the frame.
    """
    parts = subject_parts(shape, side)
    main = ALL_COLOURS[colour]
    look: dict[int, Colour] = {
        EMPTY: (255, 255, 255),
        BODY: main,
        DARK: shade(main, 0.42),
        LIGHT: (214, 230, 242),  # not white, which surrounds a reference's subject
        INK: (36, 28, 40),
        TRIM: shade(main, 0.7),
        LEAF: (66, 140, 70),
        WOOD: (122, 82, 50),
    }
    table = np.array([look[part] for part in range(len(look))], np.uint8)
    tiles = table[parts]
    second = pattern_mask(pattern, side, side) & (parts == BODY)
    tiles[second] = tint(main, 0.72)
    return tiles, parts > 0


@lru_cache(maxsize=1024)
def draw_oddment(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draws a thing without a name, made of a few random shapes; returns what `draw_subject` does.

    Half of the seeds have flat colours, stripes and speckles. The other half are larger and have
    clouds of colour, like photographs of things.
    """
    random = np.random.default_rng([7, seed])
    tiles = np.full((SIDE, SIDE, 3), 255, np.uint8)
    there = np.zeros((SIDE, SIDE), bool)
    clouded = random.random() < 0.5
    for _ in range(int(random.integers(2, 6))):
        parts = np.zeros((SIDE, SIDE), np.uint8)
        middle, reach = random.uniform(6, 26, 2), random.uniform(3, 18 if clouded else 13, 2)
        if random.random() < 0.5:
            ellipse(parts, BODY, *middle, *reach)
        else:
            corners = int(random.integers(3, 8))
            turn = np.sort(random.uniform(0, 2 * np.pi, corners))
            around = np.stack([np.cos(turn), np.sin(turn)], axis=1)
            paint(parts, middle + 1.2 * reach * around, BODY)
        colours = random.integers(0, 236, (2, 3))
        tiles[parts > 0] = colours[0]
        kind = random.integers(4)
        if kind == 0:
            striped = np.indices((SIDE, SIDE))[random.integers(2)] // random.integers(1, 4) % 2 == 0
            tiles[(parts > 0) & striped] = colours[1]
        elif kind == 1:
            speckled = random.random((SIDE, SIDE)) < 0.3
            tiles[(parts > 0) & speckled] = colours[1]
        there |= parts > 0
    if clouded:
        shifted = tiles[there] + cloud(random)[there] * random.uniform(10, 70)
        tiles[there] = np.clip(shifted, 0, 245).astype(np.uint8)
    return tiles, there


def cloud(random: np.random.Generator, side: int = SIDE) -> NDArray[np.float32]:
    """Random light and colour at every scale, `(side, side, 3)`, with a deviation of about one."""
    field = np.zeros((side, side, 3), np.float32)
    for cells in (3, 6, 12, side // 8, side):
        light = random.normal(size=(cells, cells, 1))
        colour = 0.4 * random.normal(size=(cells, cells, 3))
        field += cv2.resize(
            (light + colour).astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR
        )
    return (field / 2).astype(np.float32)
