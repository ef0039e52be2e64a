"""Finds faces without a network, with the Haar cascades of OpenCV.

One pass of one cascade misses tilted and dim faces and finds false ones in fur and folds. So
several cascades search several rotations of the image and of its mirror image, and a face counts
only if at least MIN_VOTES searches find it.
"""

from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.references.face import TEMPLATE, Face, Landmarks

# The two cascades without false detections in the measured images without faces.
CASCADES = ("haarcascade_frontalface_alt.xml", "haarcascade_frontalface_alt2.xml")
EYES = "haarcascade_eye_tree_eyeglasses.xml"
TURNS = (0.0, -15.0, 15.0)
MIN_VOTES = 2
SCALE_STEP = 1.1
NEIGHBOURS = 6
MIN_FACE = 60
# The largest factor by which small images are enlarged, up to SEARCH_SIDE.
MAX_ENLARGEMENT = 2
SEARCH_SIDE = 1024

# The size of the upright face box in which eyes are searched.
BOX_SIDE = 240
# The usual positions of the eyes in the box and their largest deviation, as shares of its side.
BOX_EYES = np.array([(0.31, 0.39), (0.69, 0.39)])
EYE_REACH = 0.12
EYE_ROUNDS = 2


@dataclass(frozen=True)
class _Vote:
    """One detection: its centre and side in the image, and the rotation of the searched view."""

    x: float
    y: float
    side: float
    turn: float


def find_faces(image: NDArray[np.uint8]) -> list[Face]:
    """Finds frontal faces, upright or tilted, in a `(height, width, 3)` RGB uint8 image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = max(1.0, min(MAX_ENLARGEMENT, SEARCH_SIDE / max(grey.shape)))
    if scale > 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    groups: list[list[_Vote]] = []
    for vote in _votes(grey):
        near = next((group for group in groups if _same_face(vote, group)), None)
        if near is None:
            groups.append([vote])
        else:
            near.append(vote)
    return [_face(grey, group, scale) for group in groups if len(group) >= MIN_VOTES]


@cache
def _cascade(file: str) -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / file))


def _votes(grey: NDArray[np.uint8]) -> list[_Vote]:
    votes = []
    for turn in TURNS:
        view, back = _turned(grey, turn)
        for file, mirrored in product(CASCADES, (False, True)):
            boxes = _cascade(file).detectMultiScale(
                np.ascontiguousarray(view[:, ::-1]) if mirrored else view,
                scaleFactor=SCALE_STEP,
                minNeighbors=NEIGHBOURS,
                minSize=(MIN_FACE, MIN_FACE),
            )
            for left, top, side, _ in boxes:
                across = left + side / 2
                centre = (view.shape[1] - across if mirrored else across, top + side / 2, 1)
                x, y = back @ centre
                votes.append(_Vote(float(x), float(y), float(side), turn))
    return votes


def _turned(grey: NDArray[np.uint8], turn: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The whole image rotated by `turn` degrees counter-clockwise, and the inverse transform."""
    height, width = grey.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), turn, 1)
    cos, sin = np.abs(matrix[0, :2])
    size = int(height * sin + width * cos), int(height * cos + width * sin)
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    view = cv2.warpAffine(grey, matrix, size, borderMode=cv2.BORDER_REPLICATE) if turn else grey
    return view, cv2.invertAffineTransform(matrix)


def _same_face(vote: _Vote, group: list[_Vote]) -> bool:
    x, y, side = np.mean([(v.x, v.y, v.side) for v in group], axis=0)
    return bool(np.hypot(vote.x - x, vote.y - y) < side / 4 and 0.6 < vote.side / side < 1.6)


def _face(grey: NDArray[np.uint8], group: list[_Vote], scale: float) -> Face:
    x, y, side = np.mean([(v.x, v.y, v.side) for v in group], axis=0) / scale
    half = side / 2
    box = (float(x - half), float(y - half), float(x + half), float(y + half))
    return Face(box, partial(_find_landmarks, grey, group, scale))


def _find_landmarks(grey: NDArray[np.uint8], group: list[_Vote], scale: float) -> Landmarks:
    # A face whose tilt is between two rotations is found in both, so the mean is its tilt.
    x, y, side, turn = np.mean([(v.x, v.y, v.side, v.turn) for v in group], axis=0)
    spread = (BOX_EYES - 0.5) @ (1, 1j) * side * np.exp(1j * np.radians(turn))
    eyes = complex(x, y) + spread
    # Each round searches a box that is aligned to the eyes of the previous round. This corrects a
    # first box that is slightly off, and rotated or scaled copies end with the same box.
    for _ in range(EYE_ROUNDS):
        zoom, shift = _similarity(eyes, BOX_EYES @ (1, 1j) * BOX_SIDE)
        matrix = np.array([(zoom.real, -zoom.imag, shift.real), (zoom.imag, zoom.real, shift.imag)])
        box = cv2.warpAffine(
            grey,
            matrix,
            (BOX_SIDE, BOX_SIDE),
            flags=cv2.INTER_AREA,
            borderMode=cv2.BORDER_REPLICATE,
        )
        eyes = (_eyes(box) @ (1, 1j) - shift) / zoom
    return _landmarks(eyes / scale)


def _eyes(box: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The centres of both eyes in an upright face's box, image left first, `(2, 2)`."""
    found = _cascade(EYES).detectMultiScale(
        box[: BOX_SIDE * 2 // 3],
        scaleFactor=1.05,
        minNeighbors=3,
        minSize=(BOX_SIDE // 8, BOX_SIDE // 8),
    )
    places = np.array(found, dtype=np.float64).reshape(-1, 4)
    centres = places[:, :2] + places[:, 2:] / 2
    return np.array([_nearest(centres, usual * BOX_SIDE) for usual in BOX_EYES])


def _nearest(centres: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    distances = np.hypot(*(centres - usual).T)
    if not len(centres) or distances.min() > EYE_REACH * BOX_SIDE:
        return usual
    return np.asarray(centres[distances.argmin()])


def _landmarks(eyes: NDArray[np.complex128]) -> NDArray[np.float32]:
    """The template's five points, transformed so that its eyes are at `eyes`."""
    template = np.asarray(TEMPLATE.astype(np.float64) @ (1, 1j), np.complex128)
    zoom, shift = _similarity(template[:2], eyes)
    points = zoom * template + shift
    return np.stack([points.real, points.imag], axis=1).astype(np.float32)


def _similarity(
    pair: NDArray[np.complex128], onto: NDArray[np.complex128]
) -> tuple[complex, complex]:
    """The similarity `z -> zoom z + shift` that takes two points of the plane onto two others."""
    zoom = complex((onto[1] - onto[0]) / (pair[1] - pair[0]))
    return zoom, complex(onto[0] - zoom * pair[0])
