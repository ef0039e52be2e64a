"""Tells when a cut-out is probably wrong, from its matte alone."""

import cv2
import numpy as np
from numpy.typing import NDArray

# A subject seldom covers more of its image, as a share of the pixels.
MOST_OF_IMAGE = 0.85
# Nor more of the image's border, as a share of the border's pixels: a portrait touches the lower
# edge and part of the sides.
MOST_OF_FRAME = 0.5
# A subject is seldom in pieces: the largest one is at least this share of it.
LARGEST_PIECE = 0.85
# Smaller pieces, as a share of the subject, are not counted.
SPECK = 0.01
# The longest side at which pieces are counted, in pixels.
COUNTED_AT = 512

ADVICE = "check it, and send a plainer background or a transparent PNG if it is wrong"


def doubt_of(matte: NDArray[np.uint8]) -> str | None:
    """One sentence that says why a cut-out is probably wrong; None if nothing speaks against it.

    Args:
        matte: `(height, width)`, 255 on the subject.
    """
    scale = min(1.0, COUNTED_AT / max(matte.shape))
    small = cv2.resize(matte, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    kept = small > 127
    if kept.all():
        return f"no subject was told from its background, so the whole image is kept; {ADVICE}"
    share = float(kept.mean())
    if share > MOST_OF_IMAGE:
        return f"the cut-out is {share:.0%} of the image; {ADVICE}"
    border = np.concatenate([kept[0], kept[-1], kept[1:-1, 0], kept[1:-1, -1]])
    touched = float(border.mean())
    if touched > MOST_OF_FRAME:
        return f"the cut-out touches {touched:.0%} of the image's frame; {ADVICE}"
    _, _, found, _ = cv2.connectedComponentsWithStats(kept.astype(np.uint8))
    areas = found[1:, cv2.CC_STAT_AREA]
    if areas.max(initial=0) < LARGEST_PIECE * areas.sum():
        pieces = int((areas >= SPECK * areas.sum()).sum())
        return f"the cut-out is in {pieces} pieces; {ADVICE}"
    return None
