"""The shapes of further things."""

from collections.abc import Callable, Mapping

import numpy as np

from training.world.parts import (
    BODY,
    DARK,
    INK,
    LEAF,
    LIGHT,
    TRIM,
    WOOD,
    Parts,
    box,
    ellipse,
    polygon,
)


def _shoe(parts: Parts) -> None:
    polygon(
        parts, BODY, (2, 7), (13, 7), (15, 12), (24, 16), (31, 19), (31.5, 25), (0.5, 25), (0.5, 15)
    )
    polygon(parts, TRIM, (2, 7), (13, 7), (13.5, 10), (2, 10))
    box(parts, LIGHT, 0.5, 24, 31, 4)
    for x in (14, 18, 22):
        polygon(parts, LIGHT, (x, 13.5), (x + 2, 13), (x + 1, 18), (x - 1, 18))


def _dog(parts: Parts) -> None:
    polygon(parts, BODY, (28, 4), (31.5, 6), (28, 18), (25, 17))
    box(parts, BODY, 9, 15, 19, 9)
    for x in (9, 14, 20, 24.5):
        box(parts, BODY, x, 22, 3.5, 9)
    box(parts, BODY, 5, 6, 10, 12)
    box(parts, BODY, 0.5, 11, 8, 6)
    polygon(parts, TRIM, (12, 3), (17, 6), (17, 15), (13, 14))
    box(parts, INK, 0.5, 11, 2.5, 2.5)
    box(parts, INK, 7, 8.5, 2, 2)
    box(parts, LIGHT, 6, 17, 8, 2)


def _car(parts: Parts) -> None:
    polygon(parts, BODY, (8, 7), (21, 7), (27, 15), (4, 15))
    box(parts, BODY, 0.5, 14, 31, 9)
    polygon(parts, LIGHT, (9.5, 9), (14, 9), (14, 15), (6.5, 15))
    polygon(parts, LIGHT, (16, 9), (20, 9), (24, 15), (16, 15))
    box(parts, TRIM, 0.5, 19, 31, 2)
    for x in (8, 24):
        ellipse(parts, INK, x, 23, 4.6, 4.6)
        ellipse(parts, LIGHT, x, 23, 1.8, 1.8)


def _tree(parts: Parts) -> None:
    box(parts, WOOD, 13, 19, 6, 12.5)
    for x, y, radius in ((9, 14, 8.5), (23, 14, 8.5), (16, 8, 8), (16, 16, 8)):
        ellipse(parts, BODY, x, y, radius, radius)


def _bird(parts: Parts) -> None:
    polygon(parts, TRIM, (20, 17), (31.5, 10), (31.5, 16), (24, 22))
    ellipse(parts, BODY, 15, 19, 11, 7.5)
    ellipse(parts, BODY, 8, 10, 6.5, 6.5)
    polygon(parts, WOOD, (3, 8), (3, 13), (-1.5, 11))
    ellipse(parts, TRIM, 18, 18, 6, 4)
    box(parts, INK, 6, 8, 2, 2)
    for x in (12, 17):
        box(parts, WOOD, x, 26, 2, 5)


def _boat(parts: Parts) -> None:
    box(parts, WOOD, 14.5, 1, 2.5, 21)
    polygon(parts, LIGHT, (18, 2), (30, 18), (18, 18))
    polygon(parts, LIGHT, (13.5, 5), (13.5, 18), (4, 18))
    polygon(parts, BODY, (0.5, 20), (31.5, 20), (26, 30), (6, 30))
    polygon(parts, TRIM, (0.5, 20), (31.5, 20), (30, 23), (2, 23))


def _flower(parts: Parts) -> None:
    box(parts, LEAF, 14.7, 16, 2.6, 15.5)
    polygon(parts, LEAF, (16, 29), (25, 20), (27, 23))
    polygon(parts, LEAF, (16, 29), (7, 20), (5, 23))
    for turn in np.arange(6) * np.pi / 3:
        ellipse(parts, BODY, 16 + 6.3 * np.sin(turn), 10 - 6.3 * np.cos(turn), 4.2, 4.2)
    ellipse(parts, LIGHT, 16, 10, 3.6, 3.6)


def _ball(parts: Parts) -> None:
    ellipse(parts, BODY, 16, 16, 15, 15)
    box(parts, TRIM, 1.3, 14, 29.4, 4)
    ellipse(parts, LIGHT, 10, 8, 3, 2.4)


def _bottle(parts: Parts) -> None:
    box(parts, DARK, 13, 0.5, 6, 3)
    box(parts, BODY, 13.5, 3, 5, 8)
    polygon(parts, BODY, (13.5, 9), (18.5, 9), (24, 15), (24, 31.5), (8, 31.5), (8, 15))
    box(parts, LIGHT, 8, 18, 16, 8)


MORE_SHAPES: Mapping[str, Callable[[Parts], None]] = {
    "shoe": _shoe,
    "dog": _dog,
    "car": _car,
    "tree": _tree,
    "bird": _bird,
    "boat": _boat,
    "flower": _flower,
    "ball": _ball,
    "bottle": _bottle,
}
