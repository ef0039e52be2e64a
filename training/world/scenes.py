"""The places of the drawn world, which extend to any size to the right and below."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from training.world.colours import Colour, shade

HORIZON = 40
"""The row at which the ground starts, in every place and at every size."""

Tiles = NDArray[np.uint8]


def _bands(rows: int, columns: int, *bands: tuple[int, Colour]) -> Tiles:
    """Horizontal bands; each starts at its row."""
    tiles = np.zeros((rows, columns, 3), np.uint8)
    for row, colour in bands:
        tiles[row:] = colour
    return tiles


def _disc(tiles: Tiles, row: float, column: float, radius: float, colour: Colour) -> None:
    rows, columns = np.mgrid[: tiles.shape[0], : tiles.shape[1]] + 0.5
    tiles[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = colour


def _box(tiles: Tiles, row: int, column: int, rows: int, columns: int, colour: Colour) -> None:
    tiles[row : row + rows, column : column + columns] = colour


def _triangle(tiles: Tiles, row: int, column: int, height: int, colour: Colour) -> None:
    """A triangle with its peak at (row, column); its sides fall by one tile a column."""
    rows, columns = np.mgrid[: tiles.shape[0], : tiles.shape[1]]
    inside = (rows >= row) & (rows < row + height) & (abs(columns - column) <= (rows - row))
    tiles[inside] = colour


def _sprinkle(
    tiles: Tiles, random: np.random.Generator, top: int, bottom: int, share: float, colour: Colour
) -> None:
    """Colours a random share of the tiles between two rows, each independently."""
    part = tiles[top:bottom]
    part[random.random(part.shape[:2]) < share] = colour


def _meadow(rows: int, columns: int, random: np.random.Generator) -> Tiles:
    tiles = _bands(rows, columns, (0, (126, 196, 244)), (22, (170, 218, 250)))
    _disc(tiles, 7, 40, 5, (255, 222, 70))
    _disc(tiles, 60, 58, 26, (98, 176, 92))
    tiles[HORIZON:] = (112, 190, 84)
    _box(tiles, 30, 54, 12, 2, (112, 74, 44))
    _disc(tiles, 25, 55, 7, (52, 138, 66))
    _sprinkle(tiles, random, HORIZON, rows, 0.2, (92, 170, 70))
    _sprinkle(tiles, random, HORIZON + 2, rows, 0.04, (250, 246, 240))
    return tiles


def _beach(rows: int, columns: int, random: np.random.Generator) -> Tiles:
    tiles = _bands(
        rows,
        columns,
        (0, (92, 200, 236)),
        (32, (30, 132, 190)),
        (HORIZON, (242, 216, 156)),
    )
    _disc(tiles, 7, 40, 5, (255, 240, 130))
    _box(tiles, 24, 56, 20, 1, (120, 84, 60))
    _disc(tiles, 24, 56.5, 6, (232, 82, 72))
    tiles[25:31, 50:64] = np.where(
        (tiles[25:31, 50:64] == (232, 82, 72)).all(-1, keepdims=True),
        (92, 200, 236),
        tiles[25:31, 50:64],
    )
    _sprinkle(tiles, random, 33, 40, 0.08, (150, 214, 236))
    _sprinkle(tiles, random, HORIZON, rows, 0.15, (228, 198, 136))
    return tiles


def _night(rows: int, columns: int, random: np.random.Generator) -> Tiles:
    tiles = _bands(rows, columns, (0, (18, 20, 58)), (24, (34, 34, 86)))
    _sprinkle(tiles, random, 0, HORIZON - 4, 0.03, (250, 246, 214))
    _disc(tiles, 7, 40, 5, (250, 240, 190))
    _disc(tiles, 6, 42.5, 4, (18, 20, 58))
    _triangle(tiles, 26, 54, 20, (52, 52, 104))
    tiles[HORIZON:] = (30, 48, 62)
    _sprinkle(tiles, random, HORIZON, rows, 0.15, (24, 38, 52))
    return tiles


def _snow(rows: int, columns: int, random: np.random.Generator) -> Tiles:
    tiles = _bands(rows, columns, (0, (176, 192, 208)), (20, (198, 210, 222)))
    _triangle(tiles, 18, 55, 9, (44, 96, 92))
    _triangle(tiles, 23, 55, 11, (44, 96, 92))
    _box(tiles, 34, 54, 8, 3, (92, 66, 52))
    tiles[HORIZON:] = (244, 248, 252)
    _sprinkle(tiles, random, 0, HORIZON, 0.06, (255, 255, 255))
    _sprinkle(tiles, random, HORIZON, rows, 0.1, (222, 232, 244))
    return tiles


def _room(rows: int, columns: int, random: np.random.Generator) -> Tiles:
    tiles = _bands(rows, columns, (0, (240, 218, 190)))
    _box(tiles, 4, 47, 22, 14, (150, 98, 62))
    _box(tiles, 6, 49, 18, 10, (156, 212, 240))
    _box(tiles, 14, 49, 1, 10, (150, 98, 62))
    _box(tiles, HORIZON - 2, 0, 2, columns, (252, 244, 232))
    tiles[HORIZON:] = (176, 112, 68)
    _sprinkle(tiles, random, HORIZON, rows, 0.15, (162, 100, 58))
    return tiles


SCENES: Mapping[str, Callable[[int, int, np.random.Generator], Tiles]] = {
    "meadow": _meadow,
    "beach": _beach,
    "night": _night,
    "snow": _snow,
    "room": _room,
}
"""The places that dream-o's miniature can draw."""

PLAIN: Mapping[str, Colour] = {
    "light grey": (222, 224, 228),
    "beige": (224, 206, 178),
    "sky blue": (160, 200, 232),
    "mint": (178, 222, 196),
    "dark": (58, 60, 74),
}
"""The colours of plain backgrounds."""


def draw_plain(background: str, rows: int, columns: int) -> Tiles:
    """Draws a key of PLAIN in tiles, `(rows, columns, 3)`, with a slightly darker floor."""
    colour = PLAIN[background]
    return _bands(rows, columns, (0, colour), (HORIZON, shade(colour, 0.93)))


def draw_scene(scene: str, rows: int, columns: int, random: np.random.Generator) -> Tiles:
    """Draws a place in tiles, `(rows, columns, 3)`; only sprinkled tiles are random."""
    return SCENES[scene](rows, columns, random)
