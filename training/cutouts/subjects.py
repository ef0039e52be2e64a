"""Random subjects: drawn things, animals, people and garments with their masks."""

from collections.abc import Callable, Iterator, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from training.cutouts.textures import Pixels, draw_noise, draw_palette, draw_shape, draw_texture

Mask = NDArray[np.float32]
Random = np.random.Generator

MIDDLE = np.array([0.5, 0])


def _polygon(side: int, points: NDArray[np.float64]) -> Mask:
    mask = np.zeros((side, side), np.float32)
    cv2.fillPoly(mask, [np.rint(points * side * 16).astype(np.int32)], 1, cv2.LINE_AA, 4)
    return mask


def _ellipse(side: int, x: float, y: float, wide: float, high: float, turn: float = 0) -> Mask:
    round_ = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    spots = np.stack([wide * np.cos(round_), high * np.sin(round_)])
    cos, sin = np.cos(turn), np.sin(turn)
    return _polygon(side, (np.array([[cos, -sin], [sin, cos]]) @ spots).T + np.array([x, y]))


def _limb(
    side: int, start: NDArray[np.float64], random: Random, length: float, wide: float
) -> Mask:
    """A bent tube that starts at a point: an arm, a leg, a tail, a branch."""
    mask = np.zeros((side, side), np.float32)
    heading = random.uniform(0, 2 * np.pi)
    bend = random.normal(0, 0.25)
    taper = random.uniform(0.4, 1.1)
    at = start
    for step in range(10):
        radius = wide * (1 + (taper - 1) * step / 9)
        centre = np.rint(at * side * 16).astype(int).tolist()
        cv2.circle(mask, centre, max(1, round(radius * side * 16)), 1, -1, cv2.LINE_AA, 4)
        at = at + length / 10 * np.array([np.cos(heading), np.sin(heading)])
        heading += bend
    return mask


def _blob(side: int, random: Random) -> Iterator[Mask]:
    """A closed curve, round or with bays."""
    turn = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    radius = np.ones(200)
    for wave in range(2, int(random.integers(3, 12))):
        radius += random.normal(0, 0.35 / wave) * np.sin(wave * turn + random.uniform(0, 6.3))
    radius = np.clip(radius, 0.15, 2)
    spots = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    yield _polygon(side, 0.5 + 0.4 * spots / np.abs(spots).max())


def _star(side: int, random: Random) -> Iterator[Mask]:
    """A polygon, a star, a cog."""
    corners = int(random.integers(3, 14))
    inner = random.uniform(0.3, 1)
    radius = np.where(np.arange(2 * corners) % 2, inner, 1)
    turn = np.pi * np.arange(2 * corners) / corners + random.uniform(0, 6.3)
    yield _polygon(side, 0.5 + 0.4 * radius[:, None] * np.stack([np.sin(turn), np.cos(turn)], 1))


def _vessel(side: int, random: Random) -> Iterator[Mask]:
    """What has a vertical axis: a bottle, a lamp, a vase, a dress, a skirt."""
    knots = int(random.integers(3, 9))
    profile = random.uniform(0.08, 0.4, (knots, 1)).astype(np.float32)
    way = cv2.INTER_CUBIC if random.uniform() < 0.6 else random.choice([0, 1])
    wide = cv2.resize(profile, (1, 64), interpolation=int(way))[:, 0].clip(0.03, 0.45)
    down = np.linspace(0.08, 0.92, 64)
    yield _polygon(
        side,
        np.concatenate([np.stack([0.5 - wide, down], 1), np.stack([0.5 + wide, down], 1)[::-1]]),
    )
    for _ in range(int(random.integers(0, 4))):  # a neck, a label, a belt
        top = random.uniform(0.1, 0.8)
        rows = slice(int(64 * top), int(64 * top) + int(random.integers(4, 24)))
        inside = wide[rows] * random.choice([1, random.uniform(0.4, 0.9)])
        left = np.stack([0.5 - inside, down[rows]], 1)
        yield _polygon(side, np.concatenate([left, np.stack([0.5 + inside, down[rows]], 1)[::-1]]))


def _animal(side: int, random: Random) -> Iterator[Mask]:
    """A body, a head with ears, legs and a tail."""
    body = random.uniform(0.13, 0.3), random.uniform(0.1, 0.25)
    centre = np.array([0.5, 0.55])
    for _ in range(int(random.integers(1, 6))):
        turn = random.uniform(0, 2 * np.pi)
        start = centre + 0.9 * np.array([body[0] * np.cos(turn), body[1] * np.sin(turn)])
        yield _limb(side, start, random, random.uniform(0.1, 0.35), random.uniform(0.02, 0.07))
    yield _ellipse(side, *centre, *body, random.uniform(-0.6, 0.6))
    turn = random.uniform(-np.pi, 0)
    at = centre + np.array([body[0] * np.cos(turn), body[1] * np.sin(turn)])
    head = random.uniform(0.08, 0.2)
    for way in (-1, 1):
        ear = at + head * np.array([0.7 * way, -0.9])
        yield _ellipse(side, *ear, head * random.uniform(0.2, 0.5), head * random.uniform(0.3, 0.8))
    yield _ellipse(side, *at, head, head * random.uniform(0.8, 1.2))
    for way in (-1, 1):
        yield _ellipse(side, *(at + head * np.array([0.4 * way, -0.1])), head * 0.15, head * 0.15)


def _person(side: int, random: Random) -> Iterator[Mask]:
    """A person, whole or a bust: hair, head, neck, body, arms, legs."""
    bust = random.uniform() < 0.5
    head = random.uniform(0.11, 0.2) if bust else random.uniform(0.05, 0.09)
    tall = random.uniform(1.15, 1.45) * head
    x, y = 0.5 + random.normal(0, 0.03), 0.08 + tall + random.uniform(0, 0.1)
    shoulder = head * random.uniform(1.4, 2.8)
    top = y + tall * random.uniform(1.0, 1.3)
    floor = 1.05 if bust else top + head * random.uniform(3, 5)
    hair = head * random.uniform(1.05, 1.5)
    if random.uniform() < 0.4:  # long hair, behind
        yield _ellipse(side, x, y + tall * random.uniform(0.2, 0.9), hair, tall * 1.5)
    if not bust:
        for way in (-1, 1):
            hip = np.array([x + way * shoulder * 0.4, floor])
            foot = hip + np.array([way * random.uniform(-0.03, 0.08), random.uniform(0.2, 0.4)])
            wide = shoulder * random.uniform(0.2, 0.45)
            across = np.array([wide, 0])
            yield _polygon(
                side, np.array([hip - across, hip + across, foot + across / 2, foot - across / 2])
            )
    for way in (-1, 1):
        start = np.array([x + way * shoulder * 0.85, top + head * 0.4])
        yield _limb(
            side, start, random, head * random.uniform(2, 5), head * random.uniform(0.25, 0.5)
        )
    waist = shoulder * random.uniform(0.6, 1.3)
    yield _polygon(
        side,
        np.array(
            [
                (x - head * 0.4, top - head * 0.2),
                (x + head * 0.4, top - head * 0.2),
                (x + shoulder, top + head * 0.5),
                (x + waist, floor + 0.02),
                (x - waist, floor + 0.02),
                (x - shoulder, top + head * 0.5),
            ]
        ),
    )
    yield _polygon(
        side,
        np.array(
            [
                (x - head * 0.45, y),
                (x + head * 0.45, y),
                (x + head * 0.4, top + 0.02),
                (x, top + head * 0.7),
                (x - head * 0.4, top + 0.02),
            ]
        ),
    )
    yield _ellipse(side, x, y - tall * 0.2, hair, tall * random.uniform(0.95, 1.1))
    yield _ellipse(side, x + random.normal(0, 0.1) * head, y + tall * 0.12, head * 0.9, tall * 0.9)
    for way in (-1, 1):
        yield _ellipse(side, x + way * head * 0.38, y + tall * 0.1, head * 0.13, head * 0.07)
    yield _ellipse(side, x, y + tall * 0.62, head * 0.28, head * 0.07)


def _garment(side: int, random: Random) -> Iterator[Mask]:
    """A shirt or a coat: two sleeves and a body with a print."""
    wide, sleeve = random.uniform(0.15, 0.28), random.uniform(0.08, 0.2)
    drop = random.uniform(0.05, 0.5)
    floor = random.uniform(0.65, 0.92)
    half = np.array(
        [
            (0.06, 0.12),
            (wide, 0.16),
            (wide + sleeve, 0.2 + drop),
            (wide + sleeve * 0.4, 0.26 + drop),
            (wide * 0.95, 0.34),
            (wide * random.uniform(0.8, 1.3), floor),
        ]
    )
    mirrored = half[::-1] * (-1, 1)
    yield _polygon(side, np.concatenate([half, mirrored]) + MIDDLE)
    if random.uniform() < 0.5:
        high = random.uniform(0.1, 0.3)
        corners = np.array([(-0.1, 0.3), (0.1, 0.3), (0.1, 0.3 + high), (-0.1, 0.3 + high)])
        yield _polygon(side, corners + MIDDLE)


def _heap(side: int, random: Random) -> Iterator[Mask]:
    """Several shapes that are joined: a plant, a machine, a toy; at times symmetric."""
    at = np.array([0.5, 0.5])
    both = random.uniform() < 0.5
    for _ in range(int(random.integers(2, 9))):
        kind = random.integers(3)
        if kind == 0:
            mask = _ellipse(side, *at, *random.uniform(0.04, 0.22, 2), random.uniform(0, 3.2))
        elif kind == 1:
            mask = _limb(side, at, random, random.uniform(0.15, 0.45), random.uniform(0.015, 0.06))
        else:
            wide, high = random.uniform(0.04, 0.2, 2)
            corners = np.array([(-wide, -high), (wide, -high), (wide, high), (-wide, high)])
            mask = _polygon(side, corners + at)
        yield np.maximum(mask, mask[:, ::-1]) if both else mask
        turn = random.uniform(0, 2 * np.pi)
        at = np.clip(at + 0.14 * np.array([np.cos(turn), np.sin(turn)]), 0.2, 0.8)


Kinds = Mapping[str, tuple[Callable[[int, Random], Iterator[Mask]], float]]

SUBJECTS: Kinds = {
    "blob": (_blob, 0.12),
    "star": (_star, 0.06),
    "vessel": (_vessel, 0.14),
    "animal": (_animal, 0.2),
    "person": (_person, 0.24),
    "garment": (_garment, 0.08),
    "heap": (_heap, 0.16),
}
"""Each kind with its share of the training images."""


def draw_subject(random: Random, side: int, among: Kinds = SUBJECTS) -> tuple[Pixels, Mask]:
    """A random subject: colours `(side, side, 3)` and mask `(side, side)`, float32 from 0 to 1.

    Args:
        random: chooses everything.
        side: the side of the image in pixels.
        among: the kinds, with shares that sum to 1.
    """
    kinds, shares = zip(*among.values(), strict=True)
    draw = kinds[random.choice(len(kinds), p=shares)]
    image = np.zeros((side, side, 3), np.float32)
    mask = np.zeros((side, side), np.float32)
    palettes = [draw_palette(random) for _ in range(int(random.integers(1, 5)))]
    simple = random.uniform() < 0.3
    for part in draw(side, random):
        palette = palettes[random.integers(len(palettes))]
        if simple:
            paint = np.broadcast_to(palette[random.integers(len(palette))], image.shape)
        else:
            paint = draw_texture(random, side, side, random.permutation(palette))
        if random.uniform() < 0.5:
            paint = paint * _relief(part, random)[..., None]
        image = image * (1 - part[..., None]) + paint * part[..., None]
        mask = np.maximum(mask, part)
    if random.uniform() < 0.25:  # details on top
        for _ in range(int(random.integers(3, 30))):
            at = random.uniform(0.2, 0.8, 2) * side
            colour = random.uniform(0, 1, 3).tolist()
            draw_shape(image, random, at, random.uniform(1, side / 16), colour)
    if random.uniform() < 0.6:
        image = image * _relief(mask, random)[..., None]
    if random.uniform() < 0.2:
        line = mask - cv2.erode(mask, np.ones((3, 3), np.uint8))
        image = image * (1 - line[..., None])
    if random.uniform() < 0.4:
        image, mask = _ragged(image, mask, random)
    return np.clip(image, 0, 1).astype(np.float32), np.clip(mask, 0, 1).astype(np.float32)


def _relief(part: Mask, random: Random) -> Mask:
    """Light from one side on a shape that bulges towards the viewer."""
    depth = cv2.distanceTransform((part > 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    depth = np.sqrt(cv2.GaussianBlur(depth, (0, 0), 3) + 1e-3)
    turn = random.uniform(0, 2 * np.pi)
    across, down = cv2.Sobel(depth, -1, 1, 0), cv2.Sobel(depth, -1, 0, 1)
    light = across * np.cos(turn) + down * np.sin(turn)
    return np.clip(1 + random.uniform(0.1, 0.6) * light, 0.25, 1.6).astype(np.float32)


def _ragged(image: Pixels, mask: Mask, random: Random) -> tuple[Pixels, Mask]:
    """An outline that noise moves: fur, leaves, torn paper."""
    side = len(mask)
    reach = side * random.uniform(0.01, 0.05)
    slope = random.uniform(1.0, 2.0)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    across, down = (reach * (draw_noise(random, side, side, slope) - 0.5) for _ in range(2))
    moved = [cv2.remap(each, x + across, y + down, cv2.INTER_LINEAR) for each in (image, mask)]
    return moved[0], moved[1]
