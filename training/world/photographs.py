"""Photographs of things without a name: drawn off the grid of tiles, shaded and grainy."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from dream_o.sizes import TOKEN_PIXELS
from training.cutouts.subjects import SUBJECTS
from training.cutouts.subjects import draw_subject as draw_cut_out
from training.cutouts.textures import color_by
from training.world.colours import HAIRS, SKINS
from training.world.subjects import SIDE, cloud, draw_oddment

# What the network for cut-outs is trained on, without people: an `ip` reference is a thing.
THINGS = {name: SUBJECTS[name][0] for name in SUBJECTS if name != "person"}
KINDS = {name: (draw, 1 / len(THINGS)) for name, draw in THINGS.items()}
# The share of things in the colours of skin and hair, which must not be mistaken for a person.
BROWN_SHARE = 0.35


def photograph(seed: int) -> NDArray[np.uint8]:
    """A thing like a cut-out photograph: a rotated oddment if `seed` is even, otherwise an object.

    Objects are animals, vessels, garments and other shapes with textures and light.

    Returns:
        `RGBA`, `(512, 512, 4)`.
    """
    random = np.random.default_rng([8, seed])
    return _object(random) if seed % 2 else _rotated(seed, random)


def _rotated(seed: int, random: np.random.Generator) -> NDArray[np.uint8]:
    tiles, there = draw_oddment(seed)
    side = SIDE * TOKEN_PIXELS
    drawn = np.concatenate([tiles, np.where(there, 255, 0).astype(np.uint8)[..., None]], axis=-1)
    large = drawn.repeat(TOKEN_PIXELS, axis=0).repeat(TOKEN_PIXELS, axis=1)
    turn = cv2.getRotationMatrix2D(
        (side / 2, side / 2), float(random.uniform(-180, 180)), float(random.uniform(0.7, 1.2))
    )
    pixels = cv2.warpAffine(
        large, turn, (side, side), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255, 0)
    ).astype(np.float32)
    pixels[..., :3] += cloud(random, side) * random.uniform(5, 45)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _object(random: np.random.Generator) -> NDArray[np.uint8]:
    image, mask = draw_cut_out(random, SIDE * TOKEN_PIXELS, KINDS)
    if random.random() < BROWN_SHARE:
        fur = list({**SKINS, **HAIRS}.values())
        chosen = np.array([fur[place] for place in random.choice(len(fur), 3)], np.float32)
        levels = image.mean(-1)
        low, high = np.percentile(levels[mask > 0.5], (2, 98))
        spread = np.clip((levels - low) / max(high - low, 0.05), 0, 1)
        image = color_by(spread, chosen / 255)
    return np.rint(255 * np.dstack([image, mask])).astype(np.uint8)


@lru_cache(maxsize=2048)
def photographed_tiles(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The mean colours of a `photograph` on white, and the mask of tiles that it covers by half."""
    pixels = photograph(seed).astype(np.float32)
    share = pixels[..., 3:] / 255
    on_white = pixels[..., :3] * share + 255 * (1 - share)
    means = (
        np.concatenate([on_white, share], axis=-1)
        .reshape(SIDE, TOKEN_PIXELS, SIDE, TOKEN_PIXELS, 4)
        .mean(axis=(1, 3))
    )
    return means[..., :3].round().astype(np.uint8), means[..., 3] >= 0.5
