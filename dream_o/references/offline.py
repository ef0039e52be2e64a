"""Finds subjects and heads without downloaded networks: by colour, or by embedded networks."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.references.background import (
    WORKING_SIDE,
    draw_outline,
    estimate_background,
    find_by_colour,
    grow,
    matte_of,
)
from dream_o.references.doubts import doubt_of
from dream_o.references.face import FACE_SIDE
from dream_o.references.resize import limit_longest_side

Pixels = NDArray[np.uint8]

# A border whose colours spread less (CIE Lab) may be that of a plain background.
PLAIN_SPREAD = 6.0
# If so many of the border's pixels are near the fitted colour, the background is plain.
PLAIN_SHARE = 0.9
# Otherwise what GrabCut finds is used if it overlaps so much with what the networks find: its
# outlines are sharper.
AGREEMENT = 0.8

# The longest side in pixels at which GrabCut refines the networks' map. At WORKING_SIDE, GrabCut
# takes longer and its results are worse (docs/decisions.md).
REFINED_AT = 256
# Logits beyond which the networks' answer is taken as certain; GrabCut decides the rest.
CERTAIN = 6.0

# The parts of an aligned face, as centre and half axes in pixels of FACE_SIDE: brow to chin and
# cheek to cheek, which is always kept; brow to chin and ear to ear; and where hair may be.
FEATURES = ((256, 290), (118, 172))
OVAL = ((256, 276), (158, 206))
HAIR = ((256, 226), (222, 214))
# Hair below HAIR hangs beside the face, at least so far from its centre, in pixels; the neck and
# the collar are nearer.
BESIDE = 110
# Colours (CIE Lab) that differ less from the hair's are hair.
HAIR_COLOUR = 16.0


def offline_matte(image: Pixels) -> Pixels:
    """The subject's matte.

    Before a plain background GrabCut finds the subject by its colours (`background.py`); otherwise
    the embedded networks do (`segmenter.py`), and GrabCut refines their map.

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
    """The subject that the embedded networks find, with GrabCut's outlines, `(height, width)`.

    Args:
        image: `(height, width, 3)` RGB uint8, at most WORKING_SIDE pixels a side.
    """
    # Imported here because it imports torch, which takes seconds.
    from dream_o.references.segmenter import subject_logits

    small = limit_longest_side(image, REFINED_AT)
    logits = subject_logits(small)
    labels = np.where(logits > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[logits > CERTAIN] = cv2.GC_FGD
    labels[logits < -CERTAIN] = cv2.GC_BGD
    height, width = image.shape[:2]
    return np.asarray(draw_outline(grow(small, labels), (width, height)) > 127)


def head_mask(aligned: Pixels) -> Pixels:
    """The mask of an aligned face with its hair and chin, `(512, 512)` uint8.

    Long hair is kept down to the lower edge. Where the head cannot be told from its background,
    the mask is an oval from brow to chin.
    """
    background = estimate_background(aligned)
    # A head always touches the lower border, so the border's share says nothing.
    plain = background.spread <= PLAIN_SPREAD
    head = find_by_colour(aligned, background) if plain else find_by_network(aligned)
    matte = matte_of(head, aligned)
    if doubt_of(matte) is not None:
        return _ellipse(OVAL)
    around = np.maximum(_ellipse(HAIR), _ellipse(OVAL))
    kept = np.minimum(matte, np.maximum(around, _long_hair(aligned, matte)))
    return np.asarray(np.maximum(kept, _ellipse(FEATURES)))


def _long_hair(aligned: Pixels, matte: Pixels) -> Pixels:
    """What hangs beside the face, has the colour of the hair above it, and is connected to it."""
    rows, columns = np.mgrid[:FACE_SIDE, :FACE_SIDE]
    (middle, level), (_, brow) = FEATURES
    beside = np.abs(columns - middle) > BESIDE
    above = (matte > 127) & (_ellipse(HAIR) > 127) & (rows < level - brow) & ~beside
    corners = (rows < level - brow) & (_ellipse(HAIR) == 0)
    # Where heads seldom are: if the matte is there, it is wrong.
    if not above.any() or (matte[corners] > 127).mean() > 0.3:
        return np.zeros_like(matte)
    lab = cv2.cvtColor(np.float32(aligned) / 255, cv2.COLOR_RGB2LAB)
    away = np.linalg.norm(lab - np.median(lab[above], axis=0), axis=2)
    like = (matte > 127) & (away < HAIR_COLOUR) & (above | beside)
    _, parts = cv2.connectedComponents(like.astype(np.uint8))
    hair = like & np.isin(parts, np.unique(parts[like & above]))
    # Its blended outline too.
    return np.asarray(cv2.dilate(hair.astype(np.uint8) * 255, np.ones((5, 5), np.uint8)))


def _ellipse(place: tuple[tuple[int, int], tuple[int, int]]) -> Pixels:
    mask = np.zeros((FACE_SIDE, FACE_SIDE), np.uint8)
    centre, axes = place
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1, cv2.LINE_AA)
    return mask
