"""Faces without a network: the Haar cascades that come with OpenCV."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.references.face import FACE_SIDE, TEMPLATE, Face

# Measured on photographs of people, animals, products and drawings: all faces, nothing else.
SCALE_STEP = 1.1
NEIGHBOURS = 6
MIN_FACE = 60

# Where the eyes are in the cascade's square box, as shares of its side.
BOX_EYES = np.array([(0.31, 0.39), (0.69, 0.39)])
# An eye found further than this share of the box's side from its usual place is no eye.
EYE_TOLERANCE = 0.13

# What stays of an aligned face: brow to chin, ear to ear.
OVAL_CENTRE = (256, 276)
OVAL_AXES = (158, 206)


def find_faces(image: NDArray[np.uint8]) -> list[Face]:
    """Upright frontal faces in a `(height, width, 3)` RGB uint8 image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    boxes = _cascade("haarcascade_frontalface_default.xml").detectMultiScale(
        grey, scaleFactor=SCALE_STEP, minNeighbors=NEIGHBOURS, minSize=(MIN_FACE, MIN_FACE)
    )
    return [_face(grey, *map(int, box)) for box in boxes]


def oval_mask(aligned: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What to keep of an aligned face, `(512, 512)` uint8: an oval around the template."""
    mask = np.zeros((FACE_SIDE, FACE_SIDE), np.uint8)
    cv2.ellipse(mask, OVAL_CENTRE, OVAL_AXES, 0, 0, 360, 255, -1, cv2.LINE_AA)
    return mask


@cache
def _cascade(file: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / file))


def _face(grey: NDArray[np.uint8], left: int, top: int, side: int, _: int) -> Face:
    usual = BOX_EYES * side + (left, top)
    eyes = _eyes(grey, left, top, side)
    pair = np.array([_nearest(eyes, place, EYE_TOLERANCE * side) for place in usual])
    return Face((left, top, left + side, top + side), _landmarks(pair))


def _eyes(grey: NDArray[np.uint8], left: int, top: int, side: int) -> NDArray[np.float64]:
    """Centres of what looks like an eye in the upper half of a face's box, `(n, 2)`."""
    upper = grey[top : top + int(side * 0.6), left : left + side]
    found = _cascade("haarcascade_eye_tree_eyeglasses.xml").detectMultiScale(
        upper, scaleFactor=1.05, minNeighbors=3, minSize=(side // 8, side // 8)
    )
    boxes = np.array(found, dtype=np.float64).reshape(-1, 4)
    return boxes[:, :2] + boxes[:, 2:] / 2 + (left, top)


def _nearest(
    eyes: NDArray[np.float64], place: NDArray[np.float64], within: float
) -> NDArray[np.float64]:
    distances = np.hypot(*(eyes - place).T)
    if not len(eyes) or distances.min() > within:
        return place
    return np.asarray(eyes[distances.argmin()])


def _landmarks(eyes: NDArray[np.float64]) -> NDArray[np.float32]:
    """The template's five points, moved so that its eyes are at these two."""
    template = TEMPLATE.astype(np.float64) @ (1, 1j)
    left, right = eyes @ (1, 1j)
    # A similarity of the plane is z -> a z + b.
    turn = (right - left) / (template[1] - template[0])
    points = turn * (template - template[0]) + left
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)
