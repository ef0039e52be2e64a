"""Subjects before grounds, with the masks that are true: what cut-outs are measured with."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.images.opening import on_white, open_image
from dream_o.references.resize import limit_longest_side
from training.cutouts.grounds import GROUNDS
from training.cutouts.subjects import draw_subject
from training.world.drawing import draw_cut_out, random_subject

Pixels = NDArray[np.uint8]

SIDE = 768
"""The longest side of a composite in pixels."""
# A photograph's white ground is not all 255: the least of a pixel's channels that counts as white.
WHITE = 245
# Outlines are moved in by as many pixels, because the outermost ones are part white.
EDGE = 2
# The side of drawn subjects, in pixels, and a seed that the training does not use.
OWN_SIDE, UNSEEN = 512, 2**20


class Subject(NamedTuple):
    """`(height, width, 3)` uint8, and a mask `(height, width)` from 0 to 255."""

    name: str
    image: Pixels
    mask: Pixels


class Composite(NamedTuple):
    """A subject before a ground, named by both, with its true mask."""

    subject: str
    ground: str
    image: Pixels
    mask: Pixels


def read_subjects(folder: Path) -> Iterator[Subject]:
    """The images of a folder whose border is white, with the masks of what is not."""
    for path in sorted(folder.iterdir()):
        image = read(path)
        mask = _not_white(image)
        if 0.02 < mask.mean() / 255 < 0.9:
            yield Subject(path.stem, image, mask)


def read(path: Path) -> Pixels:
    """An image file, its longest side at most SIDE, on white."""
    return limit_longest_side(np.asarray(on_white(open_image(path, path.name))), SIDE)


def is_on_white(image: Pixels) -> bool:
    """Whether most of the image's border is white."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return float((border.min(axis=1) >= WHITE).mean()) > 0.5


def _not_white(image: Pixels) -> Pixels:
    if not is_on_white(image):
        return np.zeros(image.shape[:2], np.uint8)
    white = (cv2.medianBlur(image, 3).min(axis=2) >= WHITE).astype(np.uint8)
    _, parts = cv2.connectedComponents(white, connectivity=4)
    border = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    ground = np.isin(parts, border[border > 0]) & (white > 0)
    _, parts, found, _ = cv2.connectedComponentsWithStats((~ground).astype(np.uint8))
    large = np.flatnonzero(found[:, cv2.CC_STAT_AREA] > 0.02 * (~ground).sum())
    subject = np.isin(parts, large[large > 0]).astype(np.uint8)
    return np.asarray(cv2.erode(subject, np.ones((2 * EDGE + 1,) * 2, np.uint8)) * 255, np.uint8)


def plain(random: np.random.Generator, height: int, width: int) -> Pixels:
    """One colour."""
    return np.broadcast_to(random.integers(20, 256, 3, np.uint8), (height, width, 3)).copy()


def gradient(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Two or three colours that run into each other along a line."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    turn = random.uniform(0, 2 * np.pi)
    along = x * np.cos(turn) + y * np.sin(turn)
    stops = np.linspace(along.min(), along.max(), int(random.integers(2, 4)))
    colours = random.uniform(0, 255, (len(stops), 3))
    levels = np.stack([np.interp(along, stops, channel) for channel in colours.T], axis=-1)
    return np.rint(levels).astype(np.uint8)


def noise(random: np.random.Generator, height: int, width: int) -> Pixels:
    """Coloured noise around one colour."""
    levels = random.uniform(60, 200, 3) + random.normal(0, 35, (height, width, 3))
    return np.clip(levels, 0, 255).astype(np.uint8)


DRAWN: dict[str, Callable[[np.random.Generator, int, int], Pixels]] = {
    "plain": plain,
    "gradient": gradient,
    "noise": noise,
}
"""Grounds that need no file."""


def own_scenery() -> dict[str, Callable[[np.random.Generator, int, int], Pixels]]:
    """Kinds of drawn scenery; the networks saw the same kinds, but not these images."""

    def drawing(kind: str) -> Callable[[np.random.Generator, int, int], Pixels]:
        draw, _ = GROUNDS[kind]

        def draw_one(random: np.random.Generator, height: int, width: int) -> Pixels:
            levels = np.clip(draw(random, max(height, width)), 0, 1)[:height, :width]
            return np.rint(levels * 255).astype(np.uint8)

        return draw_one

    return {kind: drawing(kind) for kind in GROUNDS}


def own_subjects(count: int) -> Iterator[Subject]:
    """Drawn subjects: in turns one of the embedded model's world and one as in the training."""
    random = np.random.default_rng(UNSEEN)
    for number in range(count):
        if number % 2:
            thing = random_subject(random)
            levels = np.asarray(draw_cut_out(thing))
            yield Subject(f"{thing.colour} {thing.shape}", levels[..., :3].copy(), levels[..., 3])
            continue
        mask = np.zeros((OWN_SIDE, OWN_SIDE), np.float32)
        while not 0.05 < mask.mean() < 0.7:
            colours, mask = draw_subject(random, OWN_SIDE)
        pixels, levels = (np.rint(each * 255).astype(np.uint8) for each in (colours, mask))
        yield Subject(f"drawing {number}", pixels, levels)


def covering(ground: Pixels, height: int, width: int, random: np.random.Generator) -> Pixels:
    """A random part of a ground, scaled to a size; the part has the size's proportions."""
    scale = max(height / ground.shape[0], width / ground.shape[1]) * random.uniform(1, 1.3)
    size = max(width, round(ground.shape[1] * scale)), max(height, round(ground.shape[0] * scale))
    large = cv2.resize(ground, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top = random.integers(large.shape[0] - height + 1)
    left = random.integers(large.shape[1] - width + 1)
    return np.asarray(large[top : top + height, left : left + width], np.uint8)


def compose(subject: Subject, ground: str, scene: Pixels) -> Composite:
    """Puts a subject before a scene of its size."""
    alpha = cv2.GaussianBlur(subject.mask.astype(np.float32) / 255, (0, 0), 0.8)
    image = cv2.blendLinear(subject.image, scene, alpha, 1 - alpha)
    return Composite(subject.name, ground, image, subject.mask)


def overlap(matte: Pixels, mask: Pixels) -> float:
    """Intersection over union of a matte and the true mask, each at a half."""
    found, true = matte > 127, mask > 127
    either = (found | true).sum()
    return float((found & true).sum() / either) if either else 1.0
