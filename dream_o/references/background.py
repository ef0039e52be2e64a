"""Separates a subject from a background whose colours hardly vary, and puts subjects on white."""

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.references.resize import limit_longest_side

# Subjects are found at this size, because the time grows with the pixels; outlines are then scaled.
WORKING_SIDE = 512
GRABCUT_ROUNDS = 3
# The frame of pixels that is mostly background, as a share of the longest side.
FRAME = 0.03
# Colours within this distance (CIE Lab) of the background count as background, because such
# differences can be noise.
SAME_COLOUR = 2.0
# Blurs in pixels: the first one and, if the frame's spread is then still over NOISY times
# SAME_COLOUR, the second one.
BLURS, NOISY = (1.0, 2.0), 2.0
# Beyond this many spreads a pixel of the frame is not the background's.
OUTLIER = 2.5
# Distances in units of the frame's spread. Below NEAR and joined to the border: background. Above
# LIKELY: probably subject. Above FAR, and above RIDGE times the largest distance around it:
# certainly subject.
NEAR, LIKELY, FAR, RIDGE = 2.0, 3.0, 8.0, 0.8
# Smaller holes (as a share of the image) and smaller islands (as a share of the subject) are noise.
MIN_HOLE, MIN_ISLAND = 0.0005, 0.01
# Half the width of the alpha's edge, in pixels of the image.
EDGE = 1.0


def cut_out(image: NDArray[np.uint8], matte: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Puts the image on white by its matte.

    Args:
        image: `(height, width, 3)` uint8.
        matte: `(height, width)` uint8; a pixel with 255 is kept.

    Returns:
        `(height, width, 3)` uint8.
    """
    alpha = matte[..., None].astype(np.uint16)
    # Rounded division by 255 in 16 bits, to avoid a float copy of a large photograph.
    mixed = image * alpha + 255 * (255 - alpha) + 127
    return (mixed // 255).astype(np.uint8)


class Background(NamedTuple):
    """How an image differs from what its border shows.

    Attributes:
        distance: each pixel's colour distance to the background, `(height, width)`, in units of
            `spread`.
        spread: how far the border's colours typically are from the background's, in CIE Lab. At
            least SAME_COLOUR.
        share: of the border's pixels, how many are within OUTLIER spreads.
    """

    distance: NDArray[np.float32]
    spread: float
    share: float


def grabcut_matte(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The subject's matte by GrabCut, without any network; for plain backgrounds.

    GrabCut starts from each pixel's colour distance to the background, which is estimated from the
    image's border.

    Args:
        image: `(height, width, 3)` RGB uint8.

    Returns:
        `(height, width)` uint8, with an edge of at most 2 * EDGE pixels; all 255 if no subject or
        no background was found.
    """
    small = limit_longest_side(image, WORKING_SIDE)
    return matte_of(find_by_colour(small, estimate_background(small)), image)


def matte_of(subject: NDArray[np.bool_], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The matte of a mask at the image's size; all 255 if the mask holds nothing or everything."""
    height, width = image.shape[:2]
    # Less than a thousandth of the image is not a subject.
    if not 0.001 < subject.mean() < 0.999:
        return np.full((height, width), 255, np.uint8)
    return draw_outline(subject, (width, height))


def find_by_colour(image: NDArray[np.uint8], background: Background) -> NDArray[np.bool_]:
    """The subject that GrabCut finds from the distances to the background, `(height, width)`."""
    distance = background.distance
    labels = np.where(distance > LIKELY, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    # Blur makes distances large near an outline too, so only local maxima are certain.
    labels[(distance > FAR) & (distance > RIDGE * _peak(distance))] = cv2.GC_FGD
    labels[_joined_to_border(distance < NEAR)] = cv2.GC_BGD
    return _at_half(grow(image, labels), distance)


def estimate_background(image: NDArray[np.uint8]) -> Background:
    """Models the background as a colour that changes slowly over the image.

    A second-degree polynomial in x and y is fitted to the frame. Where the subject reaches into the
    frame, its pixels are outliers, which successive fits leave out.
    """
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    wide = max(2, round(max(height, width) * FRAME))
    frame = np.ones((height, width), bool)
    frame[wide:-wide, wide:-wide] = False
    for blur in BLURS:
        smooth = cv2.GaussianBlur(image, (0, 0), blur).astype(np.float32) / 255
        lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)
        fit, spread = _fit_background(lab[frame], terms[frame])
        if spread <= NOISY * SAME_COLOUR:
            break
    distance = (np.linalg.norm(lab - terms @ fit, axis=-1) / spread).astype(np.float32)
    return Background(distance, spread, float((distance[frame] < OUTLIER).mean()))


def _fit_background(
    colours: NDArray[np.float32], terms: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float]:
    """The polynomial's coefficients, `(6, 3)`, and the spread of the colours around it."""
    off = np.linalg.norm(colours - np.median(colours, axis=0), axis=1)
    inside = off <= max(3 * float(np.median(off)), SAME_COLOUR)
    fit, spread = np.zeros((terms.shape[1], 3), np.float32), SAME_COLOUR
    # Constant, then linear, then quadratic: a quadratic fit at once would follow the outliers.
    for count in (1, 3, 3, 6, 6):
        fit[:count], *_ = np.linalg.lstsq(terms[inside, :count], colours[inside], rcond=None)
        off = np.linalg.norm(colours - terms @ fit, axis=1)
        spread = max(1.5 * float(np.median(off[inside])), SAME_COLOUR)
        inside = off < OUTLIER * spread
    return fit, spread


def _joined_to_border(likely: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a mask that touch the image's border."""
    _, parts = cv2.connectedComponents(likely.astype(np.uint8), connectivity=4)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.isin(parts, border[border > 0]) & likely


def grow(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The subject that GrabCut finds from the labels, without small islands and holes."""
    seeds = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if seeds.any() and not seeds.all():
        # GrabCut uses OpenCV's global random generator: seed it, so that results repeat.
        cv2.setRNGSeed(0)
        cv2.grabCut(
            np.ascontiguousarray(image[..., ::-1]),
            labels,
            None,
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            GRABCUT_ROUNDS,
            cv2.GC_INIT_WITH_MASK,
        )
    subject = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    for value, least in (
        (True, MIN_ISLAND * subject.sum()),
        (False, MIN_HOLE * subject.size),
    ):
        _, parts, found, _ = cv2.connectedComponentsWithStats((subject == value).astype(np.uint8))
        small = np.flatnonzero(found[:, cv2.CC_STAT_AREA] < least)
        subject[np.isin(parts, small[small > 0])] = not value
    return subject


def _at_half(subject: NDArray[np.bool_], distance: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Moves the outline to where a pixel is half subject, half background.

    A pixel with a little of the subject's colour already differs from the background, so distance
    alone would put the outline about a pixel too far out.
    """
    core = cv2.erode(subject.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return core | (subject & (distance > _peak(distance) / 2))


def _peak(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest distance within two pixels."""
    return np.asarray(cv2.dilate(distance, np.ones((5, 5), np.uint8)))


def draw_outline(subject: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scales a mask to `size`, (width, height), as a matte with an edge 2 * EDGE pixels wide."""
    scale = size[0] / subject.shape[1]
    soft = cv2.GaussianBlur(subject.astype(np.float32), (0, 0), 1.0)
    soft = cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)
    # A step edge blurred by one pixel is an error function; this factor makes it 0 and 1 at EDGE.
    steep = 1 / math.erf(EDGE / scale / math.sqrt(2))
    return np.rint(np.clip((soft - 0.5) * steep + 0.5, 0, 1) * 255).astype(np.uint8)
