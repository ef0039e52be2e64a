"""A subject without its background: mattes, and putting what they keep on white."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.references.resize import limit_longest_side

# GrabCut's time grows with the pixels; an outline found at this size is drawn at any other.
GRABCUT_SIDE = 512
GRABCUT_ROUNDS = 5
# What photographs of one subject leave free at each border, as a share of the side.
GRABCUT_MARGIN = 0.03
# Width of the alpha's edge, in pixels of the image.
EDGE_PIXELS = 2.0


def cut_out(image: NDArray[np.uint8], matte: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image on white by its matte.

    Args:
        image: `(height, width, 3)` uint8.
        matte: `(height, width)` uint8, 255 keeps a pixel.

    Returns:
        `(height, width, 3)` uint8.
    """
    alpha = matte[..., None].astype(np.uint16)
    # Rounded division by 255, in 16 bits: a large photograph must not become floats.
    mixed = image * alpha + 255 * (255 - alpha) + 127
    return (mixed // 255).astype(np.uint8)


def grabcut_matte(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The subject's matte by OpenCV's GrabCut, without any network.

    Args:
        image: `(height, width, 3)` RGB uint8.

    Returns:
        `(height, width)` uint8, the edge at most EDGE_PIXELS wide; all 255 where GrabCut finds
        no subject or nothing but subject.
    """
    height, width = image.shape[:2]
    small = limit_longest_side(image, GRABCUT_SIDE)
    rows, columns = small.shape[:2]
    top, left = max(1, int(rows * GRABCUT_MARGIN)), max(1, int(columns * GRABCUT_MARGIN))
    labels = np.zeros((rows, columns), np.uint8)
    # GrabCut clusters colours with OpenCV's generator, whose state would differ between calls.
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]),
        labels,
        (left, top, columns - 2 * left, rows - 2 * top),
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        GRABCUT_ROUNDS,
        cv2.GC_INIT_WITH_RECT,
    )
    subject = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not subject.any() or subject.all():
        return np.full((height, width), 255, np.uint8)
    return draw_outline(subject, (width, height))


def draw_outline(subject: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask at another size, `(width, height)`, as a matte with an edge of EDGE_PIXELS."""
    scale = max(1.0, size[0] / subject.shape[1])
    soft = cv2.GaussianBlur(subject.astype(np.float32), (0, 0), 1.0)
    soft = cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)
    # The blurred edge is about three small pixels wide; steeper, it is EDGE_PIXELS of the image.
    steep = max(1.0, 2.5 * scale / EDGE_PIXELS)
    return np.rint(np.clip((soft - 0.5) * steep + 0.5, 0, 1) * 255).astype(np.uint8)
