"""The people of the drawn world."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.colours import COLOURS, HAIRS, SKINS, Colour, shade, tint

LENGTHS = ("short", "long")
BARE = "nothing"
WORN = ("hat", "glasses")
"""What a person can wear; BARE is neither."""

ROWS, COLUMNS = 96, 44
"""The rows of a person, from the top of the head to below the bottom of any image."""

# In tiles from the person's top left corner. The eyes are as far apart as in an aligned face
# (`dream_o.references.face.TEMPLATE`: 126 of 512 pixels), so that a reference has the same scale.
CENTRE, EYES, EYE_DISTANCE, CHIN = 22, 17, 8, 29
FINE = 8
FELT, RIBBON, RIM = (52, 56, 104), (222, 190, 90), (20, 20, 28)


@cache
def _ellipse(x: float, y: float, rx: float, ry: float) -> NDArray[np.bool_]:
    row, column = (np.mgrid[: ROWS * FINE, : COLUMNS * FINE] + 0.5) / FINE
    inside = ((column - x) / rx) ** 2 + ((row - y) / ry) ** 2 <= 1
    return inside.reshape(ROWS, FINE, COLUMNS, FINE).mean(axis=(1, 3)) >= 0.5


def _line_around(where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    padded = cv2.copyMakeBorder(where.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return where & ~(cv2.erode(padded, cross)[1:-1, 1:-1] > 0)


def draw_person(
    skin: str, hair: str, length: str, shirt: str, wears: str = BARE
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draws a person: colours `(ROWS, COLUMNS, 3)` and the mask of the person.

    Args:
        skin: a key of SKINS.
        hair: a key of HAIRS.
        length: one of LENGTHS.
        shirt: a key of COLOURS.
        wears: BARE or one of WORN.
    """
    tiles = np.full((ROWS, COLUMNS, 3), 255, np.uint8)
    there = np.zeros((ROWS, COLUMNS), bool)
    flesh, locks, cloth = SKINS[skin], HAIRS[hair], COLOURS[shirt]

    def put(where: NDArray[np.bool_], colour: Colour) -> None:
        tiles[where] = colour
        there[where] = True

    def box(x: int, y: int, width: int, height: int, colour: Colour) -> None:
        put(_rectangle(x, y, width, height), colour)

    x = float(CENTRE)
    if length == "long":
        back = (_ellipse(x, 16, 12.5, 15) | _rectangle(CENTRE - 12, 16, 25, 22)) & (
            np.arange(ROWS)[:, None] < 38
        )
        put(back, locks)
        put(_line_around(back), shade(locks, 0.6))
    body = _ellipse(x, 52, 19.5, 18) | (
        (np.arange(ROWS)[:, None] >= 52) & _rectangle(CENTRE - 19, 0, 39, ROWS)
    )
    put(body, cloth)
    put(_line_around(body), shade(cloth, 0.5))
    box(CENTRE - 3, CHIN - 2, 7, 8, shade(flesh, 0.8))
    if length == "short":
        put(_ellipse(x, 12, 10.5, 11.5) & (np.arange(ROWS)[:, None] < 15), locks)
        for ear in (-9, 8):
            box(CENTRE + ear, 17, 2, 4, shade(flesh, 0.85))
    put(_ellipse(x, 18, 8.5, 12), flesh)
    fringe = _ellipse(x, 10, 9.5, 8.5) & (np.arange(ROWS)[:, None] < 10)
    put(fringe, locks)

    brow = shade(flesh, 0.36)
    for side in (-1, 1):
        eye = CENTRE + side * EYE_DISTANCE // 2
        box(eye - 2, EYES - 3, 4, 1, brow)
        box(eye - 2, EYES - 1, 4, 1, shade(flesh, 0.62))
        box(eye - 2, EYES, 4, 1, (250, 250, 250))
        box(eye - 1, EYES - 1, 2, 2, (30, 24, 30))
    box(CENTRE - 1, EYES - 2, 2, 6, tint(flesh, 0.3))
    box(CENTRE - 2, EYES + 4, 4, 1, shade(flesh, 0.7))
    box(CENTRE - 4, EYES + 7, 8, 1, (150, 40, 48))
    box(CENTRE - 3, EYES + 8, 6, 1, (206, 84, 84))
    if wears == "hat":
        box(CENTRE - 9, 0, 19, 7, FELT)
        box(CENTRE - 9, 4, 19, 3, RIBBON)
        box(CENTRE - 15, 7, 31, 3, shade(FELT, 0.8))
    if wears == "glasses":
        for side in (-1, 1):
            left = CENTRE + side * EYE_DISTANCE // 2 - 4
            put(_rectangle(left, EYES - 3, 8, 6) & ~_rectangle(left + 1, EYES - 2, 6, 4), RIM)
            box(CENTRE + 9 * side - 1, EYES - 2, 2, 1, RIM)
    return tiles, there


def _rectangle(x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
    where = np.zeros((ROWS, COLUMNS), bool)
    where[y : y + height, x : x + width] = True
    return where
