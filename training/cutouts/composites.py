"""Training images: subjects placed before grounds, with the true masks."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.cutouts.grounds import draw_ground
from training.cutouts.subjects import draw_subject


class Drawn(NamedTuple):
    """A subject, `(side, side, 4)` uint8 with alpha, and a ground, `(side, side, 3)` uint8."""

    subject: NDArray[np.uint8]
    ground: NDArray[np.uint8]


def draw(seed: int, side: int) -> Drawn:
    """The subject and the ground of a seed. A subject covers at least a hundredth of its square."""
    random = np.random.default_rng((seed, side))
    mask = np.zeros((side, side), np.float32)
    while mask.mean() < 0.01:
        colours, mask = draw_subject(random, side)
    subject = np.concatenate([colours, mask[..., None]], axis=-1)
    return Drawn(_bytes(subject), _bytes(draw_ground(random, side)))


def _bytes(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(levels * 255).astype(np.uint8)


def compose(
    subject: NDArray[np.uint8], ground: NDArray[np.uint8], random: np.random.Generator, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Places a subject before a ground at random, and photographs both.

    Returns:
        The image `(side, side, 3)` and its mask `(side, side)`, uint8.
    """
    placed = _placed(subject, random, side)
    scene = _tinted(_cropped(ground, random, side), random)
    mask = np.ascontiguousarray(placed[..., 3])
    if random.uniform() < 0.25:  # a shadow
        reach = random.uniform(1, side / 12)
        moved = np.float32([[1, 0, random.normal(0, reach)], [0, 1, random.uniform(0, reach)]])
        shadow = cv2.warpAffine(cv2.blur(mask, (2 * int(reach) + 1,) * 2), moved, (side, side))
        shade = (1 - np.float32(random.uniform(0.2, 0.7) / 255) * shadow)[..., None]
        scene = (scene * shade).astype(np.uint8)
    soft = cv2.GaussianBlur(mask, (0, 0), random.uniform(0.3, 1.2)).astype(np.float32) / 255
    colours = _tinted(np.ascontiguousarray(placed[..., :3]), random)
    image = _tinted(cv2.blendLinear(colours, scene, soft, 1 - soft), random)
    if random.uniform() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.3, 1.2))
    if random.uniform() < 0.4:
        noise = random.standard_normal(image.shape, np.float32) * random.uniform(1, 22)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if random.uniform() < 0.3:
        quality = int(random.integers(30, 95))
        _, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
    return np.asarray(image, np.uint8), mask


def _placed(
    subject: NDArray[np.uint8], random: np.random.Generator, side: int
) -> NDArray[np.uint8]:
    """The subject turned, scaled and moved, most often near the middle or on the lower edge."""
    if random.uniform() < 0.5:
        subject = subject[:, ::-1]
    rows, columns = np.nonzero(subject[..., 3] > 127)
    top, left = rows.min(), columns.min()
    high, wide = rows.max() + 1 - top, columns.max() + 1 - left
    # The share of the image's sides that the subject's box takes: few references show small things.
    share = np.sqrt(random.uniform(0.4**2, 1.05**2))
    scale = share * side / max(high, wide)
    if random.uniform() < 0.4:  # as large as its shorter side allows
        scale *= min(1.6, max(high, wide) / min(high, wide)) ** random.uniform(0, 1)
    stretch = np.exp(random.normal(0, 0.15))
    turn = np.radians(random.normal(0, 8) if random.uniform() < 0.85 else random.uniform(-180, 180))
    cos, sin = np.cos(turn), np.sin(turn)
    turning = np.array([[cos, -sin], [sin, cos]]) * scale @ np.diag([stretch, 1 / stretch])
    middle = np.array([left + wide / 2, top + high / 2])
    at = side * (0.5 + max(0.03, 1 - share) * np.clip(random.normal(0, 0.2, 2), -0.5, 0.5))
    if random.uniform() < 0.35:  # cut off by the lower edge
        at[1] = side - scale * high * random.uniform(0.35, 0.5)
    if random.uniform() < 0.06:
        at[0] = random.choice([0.15, 0.85]) * side
    matrix = np.column_stack([turning, at - turning @ middle])
    flags = cv2.INTER_AREA if scale < 0.7 else cv2.INTER_LINEAR
    return np.asarray(
        cv2.warpAffine(np.ascontiguousarray(subject), matrix, (side, side), flags=flags)
    )


def _cropped(
    ground: NDArray[np.uint8], random: np.random.Generator, side: int
) -> NDArray[np.uint8]:
    if random.uniform() < 0.5:
        ground = ground[:, ::-1]
    crop = int(len(ground) * random.uniform(0.5, 1))
    top, left = random.integers(0, len(ground) - crop + 1, 2)
    part = np.ascontiguousarray(ground[top : top + crop, left : left + crop])
    return np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR))


def _tinted(image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Another light: contrast, brightness, colour of the light, at times other channels."""
    if random.uniform() < 0.15:
        image = np.ascontiguousarray(image[..., random.permutation(3)])
    if random.uniform() < 0.2:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        share = random.uniform(0, 1)
        image = cv2.addWeighted(image, share, grey, 1 - share, 0)
    if random.uniform() < 0.6:
        gain = random.uniform(0.6, 1.3) * random.normal(1, 0.08, 3)
        levels = np.arange(256)[:, None] * gain + random.uniform(-40, 50)
        image = cv2.LUT(image, np.clip(levels, 0, 255).astype(np.uint8)[None])
    return np.asarray(image, np.uint8)
