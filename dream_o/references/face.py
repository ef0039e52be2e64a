"""Selects the face for the `id` task and aligns it to the template."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

FACE_SIDE = 512
# Where DreamO's training placed the eyes, the nose and the corners of the mouth, in pixels of a
# FACE_SIDE square, image left first: facexlib's 512-pixel template with 5 landmarks.
TEMPLATE = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ],
    np.float32,
)
# The colour outside the photograph in DreamO's training.
BORDER_RGB = (132, 133, 135)


Landmarks = NDArray[np.float32]
"""Eyes, nose and corners of the mouth, `(5, 2)` x and y, in the order of TEMPLATE."""


@dataclass(frozen=True)
class Face:
    """A detected face.

    Attributes:
        box: left, top, right, bottom, in pixels.
        find_landmarks: computes the landmarks; only the face that is used needs them.
    """

    box: tuple[float, float, float, float]
    find_landmarks: Callable[[], Landmarks]


def nearest_centre(faces: list[Face], height: int, width: int) -> Face:
    """The face whose centre is nearest to the image's."""

    def distance(face: Face) -> float:
        left, top, right, bottom = face.box
        return float(np.hypot((left + right - width) / 2, (top + bottom - height) / 2))

    return min(faces, key=distance)


def align(image: NDArray[np.uint8], landmarks: Landmarks) -> NDArray[np.uint8] | None:
    """Transforms the image so that the face has the template's position and size.

    Args:
        image: `(height, width, 3)` RGB uint8.
        landmarks: `(5, 2)` x and y in the image.

    Returns:
        `(512, 512, 3)` RGB uint8, with BORDER_RGB outside the image; None if the landmarks
        coincide.
    """
    matrix, _ = cv2.estimateAffinePartial2D(landmarks, TEMPLATE, method=cv2.LMEDS)
    if matrix is None:
        return None
    warped = cv2.warpAffine(
        image,
        matrix,
        (FACE_SIDE, FACE_SIDE),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=BORDER_RGB,
    )
    return np.asarray(warped, dtype=np.uint8)
