"""Images that the tests draw: no photograph of anybody is needed."""

import cv2
import numpy as np
from numpy.typing import NDArray

HAIR, DARK, LIPS = (50, 35, 28), (55, 40, 35), (150, 70, 70)
SKIN, SHADOW, LIT = (205, 165, 140), (160, 129, 109), (226, 182, 154)
WALL = (120, 140, 160)

# Centre, half axes (both in shares of the side), colour: painted in this order.
FACE_PARTS = (
    ((0.500, 0.420), (0.360, 0.400), HAIR),
    ((0.500, 0.950), (0.160, 0.200), SHADOW),
    ((0.500, 0.500), (0.290, 0.380), SKIN),
    ((0.500, 0.240), (0.270, 0.120), HAIR),
    *(((x, 0.450), (0.075, 0.050), SHADOW) for x in (0.38, 0.62)),
    *(((x, 0.400), (0.075, 0.014), DARK) for x in (0.38, 0.62)),
    *(((x, 0.455), (0.050, 0.022), (235, 235, 235)) for x in (0.38, 0.62)),
    *(((x, 0.455), (0.022, 0.022), (30, 25, 25)) for x in (0.38, 0.62)),
    ((0.500, 0.600), (0.050, 0.025), SHADOW),
    ((0.500, 0.530), (0.018, 0.080), LIT),
    *(((x, 0.615), (0.014, 0.008), DARK) for x in (0.475, 0.525)),
    ((0.500, 0.730), (0.095, 0.026), LIPS),
    ((0.500, 0.727), (0.090, 0.006), DARK),
)
# Where the face's eyes, nose tip and mouth corners are, in shares of the side.
FACE_LANDMARKS = np.array(
    [(0.38, 0.455), (0.62, 0.455), (0.5, 0.6), (0.405, 0.73), (0.595, 0.73)], np.float32
)


def drawn_face(side: int = 256, margin: float = 0.0) -> NDArray[np.uint8]:
    """A shaded face that OpenCV's cascades take for one, with a wall of `margin` sides around."""
    large = side * 4
    image = np.full((large, large, 3), WALL, np.uint8)
    for centre, axes, colour in FACE_PARTS:
        at = [round(v * large) for v in (*centre, *axes)]
        cv2.ellipse(image, at[:2], at[2:], 0, 0, 360, colour, -1, cv2.LINE_AA)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    across = np.abs(np.linspace(-1, 1, side))
    shaded = (image * (1 - 0.35 * across**2)[None, :, None]).astype(np.uint8)
    wall = round(side * margin)
    return np.pad(shaded, ((wall, wall), (wall, wall), (0, 0)), mode="edge")


def spot_distance(image: NDArray[np.uint8], x: float, y: float) -> float:
    """How far the middle of a bright spot on black near a place is from it, in pixels."""
    left, top = round(x) - 12, round(y) - 12
    patch = image[top : top + 25, left : left + 25].max(axis=2).astype(float)
    rows, columns = np.mgrid[top : top + 25, left : left + 25]
    middle = (patch * columns).sum() / patch.sum(), (patch * rows).sum() / patch.sum()
    return float(np.hypot(middle[0] - x, middle[1] - y))
