"""Finds subjects and heads without downloaded networks: by colour, or by the embedded network."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.references.background import (
    WORKING_SIDE,
    estimate_background,
    find_by_colour,
    matte_of,
    without_specks,
)
from dream_o.references.doubts import doubt_of
from dream_o.references.face import FACE_SIDE
from dream_o.references.resize import limit_longest_side

Pixels = NDArray[np.uint8]
Levels = NDArray[np.float32]

# A border whose colours spread less (CIE Lab) may be that of a plain background.
PLAIN_SPREAD = 6.0
# If so many of the border's pixels are near the fitted colour, the background is plain.
PLAIN_SHARE = 0.97
# Otherwise what GrabCut finds is used if it overlaps so much with what the network finds: its
# outlines are sharper.
AGREEMENT = 0.7

# The guided filter's radius as a share of the longest side: a few of the network's pixels. And its
# smallest variance of colours (0 to 1, squared) that counts as an outline.
GUIDE_REACH, GUIDE_CONTRAST = 0.024, 1e-4

# The parts of an aligned face, as centre and half axes in pixels of FACE_SIDE: brow to chin and
# cheek to cheek, which is always kept; brow to chin and ear to ear; and where hair may be.
FEATURES = ((256, 290), (118, 172))
OVAL = ((256, 276), (158, 206))
HAIR = ((256, 226), (222, 214))


def offline_matte(image: Pixels) -> Pixels:
    """The subject's matte.

    Before a plain background GrabCut finds the subject by its colours (`background.py`); otherwise
    the embedded network does (`segmenter.py`), and the image's outlines refine its map.

    Args:
        image: `(height, width, 3)` RGB uint8.

    Returns:
        `(height, width)` uint8; all 255 if no subject or no background was found.
    """
    small = limit_longest_side(image, WORKING_SIDE)
    background = estimate_background(small)
    if background.spread > PLAIN_SPREAD:
        return matte_of(find_by_network(small), image)
    by_colour = find_by_colour(small, background)
    if background.share < PLAIN_SHARE:
        by_network = find_by_network(small)
        either = (by_colour | by_network).sum()
        if (by_colour & by_network).sum() < AGREEMENT * either:
            return matte_of(by_network, image)
    return matte_of(by_colour, image)


def find_by_network(image: Pixels) -> NDArray[np.bool_]:
    """The subject that the embedded network finds in an image of at most WORKING_SIDE pixels."""
    # Imported here because it imports torch, which takes seconds.
    from dream_o.references.segmenter import subject_probability

    size = image.shape[1], image.shape[0]
    probability = np.asarray(cv2.resize(subject_probability(image), size), np.float32)
    reach = max(2, round(GUIDE_REACH * max(image.shape[:2])))
    guide = np.asarray(image / 255, np.float32)
    guided = guided_filter(guide, probability, reach, GUIDE_CONTRAST)
    return without_specks(guided > 0.5)


def guided_filter(guide: Levels, levels: Levels, reach: int, contrast: float) -> Levels:
    """Moves the outlines of a map to those of an image (He, Sun, Tang: "Guided Image Filtering").

    Around each pixel the map is fitted by a linear function of the image's colours.

    Args:
        guide: `(height, width, 3)` from 0 to 1.
        levels: the map, `(height, width)`.
        reach: the radius of the fits in pixels.
        contrast: the variance below which colours count as equal.

    Returns:
        `(height, width)`.
    """

    def mean(values: Levels) -> Levels:
        side = 2 * reach + 1
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT))

    colour, level = mean(guide), mean(levels)
    shared = mean(guide * levels[..., None]) - colour * level[..., None]
    pairs = guide[..., :, None] * guide[..., None, :]
    spread = mean(pairs.reshape(*levels.shape, 9)).reshape(pairs.shape)
    spread -= colour[..., :, None] * colour[..., None, :]
    spread += contrast * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, shared[..., None])[..., 0]
    offset = level - (slope * colour).sum(axis=-1)
    return np.asarray((mean(slope) * guide).sum(axis=-1) + mean(offset), np.float32)


def head_mask(aligned: Pixels) -> Pixels:
    """The mask of an aligned face with its hair and chin, `(512, 512)` uint8.

    Where the head cannot be told from its background, the mask is an oval from brow to chin.
    """
    matte = offline_matte(aligned)
    if doubt_of(matte) is not None:
        return _ellipse(OVAL)
    head = np.minimum(matte, np.maximum(_ellipse(HAIR), _ellipse(OVAL)))
    return np.asarray(np.maximum(head, _ellipse(FEATURES)))


def _ellipse(place: tuple[tuple[int, int], tuple[int, int]]) -> Pixels:
    mask = np.zeros((FACE_SIDE, FACE_SIDE), np.uint8)
    centre, axes = place
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    return mask
