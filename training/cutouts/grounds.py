"""Random grounds: the sceneries behind the drawn subjects."""

from collections.abc import Callable

import cv2
import numpy as np

from training.cutouts.textures import (
    Pixels,
    draw_noise,
    draw_palette,
    draw_shape,
    draw_texture,
)


def _surface(random: np.random.Generator, side: int) -> Pixels:
    """One texture over all of the image."""
    return draw_texture(random, side, side)


def _landscape(random: np.random.Generator, side: int) -> Pixels:
    """A sky, ridges one before the other, and trees and houses on them."""
    down = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    sky = draw_palette(random, 2)
    image = np.broadcast_to(sky[0] * (1 - down) + sky[1] * down, (side, side, 3)).copy()
    if random.uniform() < 0.5:
        clouds = np.clip(draw_noise(random, side, side, 1.7) * 2 - 1, 0, 1)[..., None]
        image = image * (1 - clouds) + clouds * random.uniform(0.7, 1)
    if random.uniform() < 0.3:
        colour = random.uniform(0.7, 1, 3).tolist()
        draw_shape(image, random, random.uniform(0, (side, side / 2)), side / 14, colour)
    rows = np.arange(side)[:, None]
    horizon = random.uniform(0.2, 0.6)
    for layer in range(int(random.integers(1, 6))):
        cells = int(random.integers(2, 9))
        ridge = cv2.resize(
            random.standard_normal((1, cells), np.float32), (side, 1), interpolation=cv2.INTER_CUBIC
        )[0]
        if random.uniform() < 0.4:  # a single peak
            peak = np.abs(np.arange(side) / side - random.uniform(0.2, 0.8))
            ridge = ridge * 0.3 - 3 * np.clip(0.45 - peak, 0, 1) * random.uniform(1, 3)
        rough = random.standard_normal(side) * random.choice([0, 0.02, 0.08])
        top = side * (horizon + 0.12 * layer) + side * 0.06 * (ridge + rough)
        below = rows >= top[None, :]
        image[below] = draw_texture(random, side, side)[below]
        for _ in range(int(random.integers(0, 12))):
            x = random.integers(side)
            at = np.array([x, top[x] + random.uniform(0, 0.05) * side])
            colour = random.uniform(0, 1, 3).tolist()
            draw_shape(image, random, at, random.uniform(2, side / 14), colour)
    return image.astype(np.float32)


def _room(random: np.random.Generator, side: int) -> Pixels:
    """A wall and a floor, with windows, frames, shelves and furniture."""
    image = draw_texture(random, side, side)
    edge = int(side * random.uniform(0.5, 0.9))
    image[edge:] = draw_texture(random, side - edge, side)
    for _ in range(int(random.integers(1, 9))):
        wide, high = random.uniform(0.06, 0.5, 2) * side
        left, top = random.uniform(-0.1, 0.95, 2) * side
        x0, y0 = max(0, int(left)), max(0, int(top))
        x1, y1 = min(side, int(left + wide)), min(side, int(top + high))
        if x1 - x0 < 3 or y1 - y0 < 3:
            continue
        image[y0:y1, x0:x1] = draw_texture(random, y1 - y0, x1 - x0)
        if random.uniform() < 0.6:
            colour = random.uniform(0, 1, 3).tolist()
            cv2.rectangle(image, (x0, y0), (x1, y1), colour, int(random.integers(1, 5)))
    return image


def _street(random: np.random.Generator, side: int) -> Pixels:
    """Houses with rows of windows before a sky."""
    image = draw_texture(random, side, side, draw_palette(random, 2).repeat(2, axis=0))
    left = 0
    floor = int(side * random.uniform(0.6, 1))
    while left < side:
        wide = int(random.uniform(0.1, 0.4) * side)
        top = int(random.uniform(0.05, 0.6) * side)
        right = min(side, left + wide)
        if floor - top > 4 and right - left > 4:
            image[top:floor, left:right] = draw_texture(random, floor - top, right - left)
            step = int(random.integers(6, 24))
            pane = random.uniform(0, 1, 3)
            for y in range(top + step // 2, floor - step // 2, step):
                for x in range(left + step // 2, right - step // 2, step):
                    image[y : y + step // 2, x : x + step // 2] = pane
        left = right
    if floor < side:
        image[floor:] = draw_texture(random, side - floor, side)
    return image


def _things(random: np.random.Generator, side: int) -> Pixels:
    """Things of their own textures, most of them at the image's edges."""
    image = draw_texture(random, side, side)
    for _ in range(int(random.integers(2, 14))):
        mask = np.zeros((side, side, 3), np.float32)
        turn, far = random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.75)
        at = side * (0.5 + far * np.array([np.cos(turn), np.sin(turn)]))
        draw_shape(mask, random, at, random.uniform(0.04, 0.25) * side, (1, 1, 1))
        image = image * (1 - mask) + draw_texture(random, side, side) * mask
    return image


GROUNDS: dict[str, tuple[Callable[[np.random.Generator, int], Pixels], float]] = {
    "surface": (_surface, 0.25),
    "landscape": (_landscape, 0.3),
    "room": (_room, 0.15),
    "street": (_street, 0.1),
    "things": (_things, 0.2),
}
"""Each kind with its share of the training images."""


def draw_ground(random: np.random.Generator, side: int) -> Pixels:
    """A random ground, `(side, side, 3)` float32 from 0 to 1, at times bent, blurred or grainy."""
    kinds, shares = zip(*GROUNDS.values(), strict=True)
    image = kinds[random.choice(len(kinds), p=shares)](random, side)
    if random.uniform() < 0.5:
        reach = side * random.uniform(0.02, 0.12)
        y, x = np.mgrid[:side, :side].astype(np.float32)
        across, down = (reach * (draw_noise(random, side, side, 3.0) - 0.5) for _ in range(2))
        image = cv2.remap(image, x + across, y + down, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT)
    if random.uniform() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.5, 5))
    if random.uniform() < 0.3:
        image = image + random.normal(0, random.uniform(0.01, 0.06), image.shape)
    return np.ascontiguousarray(np.clip(image, 0, 1), np.float32)
