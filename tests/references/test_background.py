"""Subjects cut out without a network: drawn shapes whose masks are known."""

import cv2
import numpy as np
import pytest
from PIL import Image

from dream_o.references.background import draw_outline, grabcut_matte
from tests.fresh_process import run_fresh

SIDE = 200
TURN = np.linspace(0, 2 * np.pi, 200)


def polygon(points):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [np.int32(np.array(points) * SIDE)], 255)
    return mask


def polar(radius):
    return polygon(np.stack([0.5 + radius * np.sin(TURN), 0.5 - radius * np.cos(TURN)], axis=1))


def regular(corners, outer, inner=None, turn=0.0):
    radii = np.where(np.arange(corners) % 2, inner or outer, outer)
    angles = 2 * np.pi * np.arange(corners) / corners + turn
    return polygon(np.stack([0.5 + radii * np.sin(angles), 0.5 - radii * np.cos(angles)], axis=1))


def ellipse(x, y, wide, high, turn=0):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    at, axes = (round(x * SIDE), round(y * SIDE)), (round(wide * SIDE), round(high * SIDE))
    cv2.ellipse(mask, at, axes, turn, 0, 360, 255, -1)
    return mask


def box(left, top, right, bottom):
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)])


SHAPES = {
    "disc": ellipse(0.5, 0.5, 0.3, 0.3),
    "ellipse": ellipse(0.5, 0.5, 0.38, 0.17, 25),
    "small disc": ellipse(0.6, 0.4, 0.12, 0.12),
    "square": box(0.25, 0.25, 0.75, 0.75),
    "diamond": regular(4, 0.33),
    "triangle": regular(3, 0.36),
    "pentagon": regular(5, 0.33),
    "hexagon": regular(6, 0.33, turn=0.3),
    "star": regular(10, 0.4, 0.17),
    "cog": regular(16, 0.4, 0.26, 0.2),
    "ring": ellipse(0.5, 0.5, 0.36, 0.36) & ~ellipse(0.5, 0.5, 0.18, 0.18),
    "crescent": ellipse(0.5, 0.5, 0.35, 0.35) & ~ellipse(0.64, 0.42, 0.27, 0.27),
    "cross": box(0.4, 0.15, 0.6, 0.85) | box(0.15, 0.4, 0.85, 0.6),
    "corner": box(0.25, 0.2, 0.45, 0.8) | box(0.25, 0.6, 0.8, 0.8),
    "arrow": box(0.1, 0.42, 0.6, 0.58) | polygon([(0.55, 0.25), (0.9, 0.5), (0.55, 0.75)]),
    "blob": polar(0.28 + 0.06 * np.sin(3 * TURN) + 0.03 * np.cos(7 * TURN)),
    "flower": polar(0.28 + 0.1 * np.sin(6 * TURN)),
    "dumbbell": ellipse(0.3, 0.5, 0.16, 0.16)
    | ellipse(0.7, 0.5, 0.16, 0.16)
    | box(0.3, 0.48, 0.7, 0.52),
    "bust at the lower border": box(0.35, 0.3, 0.65, 1) | ellipse(0.5, 0.25, 0.16, 0.16),
    "cup at the left border": box(0, 0.4, 0.4, 0.7) | ellipse(0.45, 0.55, 0.12, 0.12),
}
GROUNDS = ("plain", "gradient", "noisy")


def picture(mask, ground, seed):
    """The shape in one colour, shaded or striped, on a ground; colours from the seed."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE
    colour = random.integers(30, 226, 3).astype(float)
    scene = np.broadcast_to(colour, (SIDE, SIDE, 3)).copy()
    if ground == "gradient":
        scene += (0.4 * across + 0.6 * down)[..., None] * random.integers(-90, 91, 3)
    others = random.integers(0, 256, (200, 3))
    # Subjects that nobody could see are not what this is about.
    seen = np.abs(others[:, None] - scene[::40, ::40].reshape(1, -1, 3)).sum(2).min(1) > 100
    first, second = others[seen][:2]
    painted = np.broadcast_to(first.astype(float), scene.shape).copy()
    if seed % 3 == 1:
        painted *= 1 - 0.35 * np.abs(across - 0.45)[..., None]
    if seed % 3 == 2:
        painted[(across * 9).astype(int) % 2 == 1] = second
    alpha = cv2.GaussianBlur(mask.astype(float) / 255, (0, 0), 0.7)[..., None]
    scene = painted * alpha + scene * (1 - alpha)
    if ground == "noisy":
        scene += random.normal(0, 22, scene.shape)
    return scene.clip(0, 255).astype(np.uint8)


def overlap(matte, mask):
    found, known = matte > 127, mask > 127
    return (found & known).sum() / (found | known).sum()


@pytest.mark.parametrize("ground", GROUNDS)
def test_shapes_are_cut_out_along_their_outlines(ground):
    overlaps = {
        name: overlap(grabcut_matte(picture(mask, ground, seed)), mask)
        for seed, (name, mask) in enumerate(SHAPES.items())
    }
    assert len(overlaps) == 20
    assert np.mean(list(overlaps.values())) > 0.97
    assert min(overlaps.values()) > 0.9, overlaps


def test_a_larger_image_is_cut_out_as_finely():
    mask = cv2.resize(SHAPES["star"], (1600, 1600), interpolation=cv2.INTER_LINEAR)
    large = cv2.resize(picture(SHAPES["star"], "plain", 3), (1600, 1600))
    assert overlap(grabcut_matte(large), mask) > 0.97


@pytest.mark.parametrize("scale", [1, 2, 5.5])
def test_the_edge_is_at_most_two_pixels_wide(scale):
    mask = np.zeros((100, 100), bool)
    mask[:, 50:] = True
    side = round(100 * scale)
    row = draw_outline(mask, (side, side))[side // 2]
    assert ((row > 0) & (row < 255)).sum() <= 2
    assert (row[: side // 2 - 2] == 0).all()
    assert (row[side // 2 + 2 :] == 255).all()


def test_nothing_to_tell_apart_keeps_the_image():
    assert (grabcut_matte(np.full((64, 64, 3), 77, np.uint8)) == 255).all()


def test_the_smallest_and_the_longest_images():
    for shape in ((16, 16), (16, 320), (400, 20)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        assert grabcut_matte(noise).shape == shape


def test_calls_before_do_not_change_the_matte():
    first = picture(SHAPES["flower"], "noisy", 5)
    alone = grabcut_matte(first)
    grabcut_matte(picture(SHAPES["star"], "gradient", 2))
    assert np.array_equal(grabcut_matte(first), alone)


MEMORY = """
import resource, sys
from pathlib import Path
from dream_o.images.opening import open_image
from dream_o.references import prepare
prepare(open_image(Path(sys.argv[1]), "ref_image1"), "ip", 512, "ref_image1")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(open_image(Path(sys.argv[2]), "ref_image1"), "ip", 512, "ref_image1")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_photograph_of_64_megapixels_stays_under_a_gigabyte(tmp_path):
    small = picture(SHAPES["disc"], "gradient", 0)
    Image.fromarray(small).save(tmp_path / "small.jpg")
    large = Image.fromarray(small).resize((8000, 8000), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", quality=50)
    megabytes = int(run_fresh(MEMORY, tmp_path / "small.jpg", tmp_path / "large.jpg"))
    # The image alone is 183; far less would mean that nothing was measured.
    assert 200 < megabytes < 950
