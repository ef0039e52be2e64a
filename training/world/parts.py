"""The parts of drawn things, and the shapes that they are painted with."""

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Rows and columns of a subject's frame: a 512-pixel reference at one tile a token."""

SHARE = 0.75
"""The share of the frame's side that shapes fill; the rest is a margin."""

EMPTY, BODY, DARK, LIGHT, INK, TRIM, LEAF, WOOD = range(8)
"""What a tile of a frame shows: nothing, or one of a thing's colours."""

Parts = NDArray[np.uint8]
"""The part at each tile of a square frame, `(side, side)`."""

# Shapes are painted this many times larger; a tile belongs to a part that covers half of it.
FINE = 8


def paint(parts: Parts, points: NDArray[np.float64], part: int) -> None:
    """Paints a polygon in place; its corners `(corners, 2)` are x and y from 0 to SIDE."""
    side = len(parts)
    large = np.zeros((side * FINE, side * FINE), np.uint8)
    placed = side * (1 - SHARE) / 2 + points * SHARE * (side / SIDE)
    cv2.fillPoly(large, [np.rint(placed * FINE).astype(np.int32)], 1)
    share = large.reshape(side, FINE, side, FINE).mean(axis=(1, 3))
    parts[share >= 0.5] = part


def polygon(parts: Parts, part: int, *corners: tuple[float, float]) -> None:
    """Paints a polygon in place, from its corners (x, y)."""
    paint(parts, np.array(corners), part)


def ellipse(parts: Parts, part: int, x: float, y: float, rx: float, ry: float) -> None:
    """Paints an ellipse in place, from its middle and its radii."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    paint(parts, np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1), part)


def box(parts: Parts, part: int, x: float, y: float, width: float, height: float) -> None:
    """Paints a rectangle in place, from its top left corner."""
    polygon(parts, part, (x, y), (x + width, y), (x + width, y + height), (x, y + height))
