"""Draws the reference images in this folder: `.venv/bin/python -m examples.draw`, from the clone's root."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from training.miniature.colours import COLOURS, shade, tint
from training.miniature.subjects import SIDE
from training.miniature.world import (
    Person,
    Picture,
    Subject,
    draw_cut_out,
    draw_portrait,
    draw_tiles,
    to_image,
)

HERE = Path(__file__).parent
STYLE_TILES = 64
"""Rows and columns of the style image: 1024 pixels, 16 of them a tile."""


def draw_shirt(colour: str) -> Image.Image:
    """A striped T-shirt on white, 512 x 512 `RGB`, in tiles of 16 pixels."""
    main = COLOURS[colour]
    half = np.array([(19, 5), (24, 6), (30, 13), (26, 17), (23, 14), (23, 28), (15, 28), (15, 7)])
    outline = np.concatenate([half, ((SIDE - 1) - half * (1, -1) * (1, -1))[::-1]])
    outline[len(half) :, 1] = half[::-1, 1]
    inside = cv2.fillPoly(np.zeros((SIDE, SIDE), np.uint8), [outline.astype(np.int32)], 1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    core = cv2.erode(inside, cross)
    tiles = np.full((SIDE, SIDE, 3), 255, np.uint8)
    tiles[inside > 0] = shade(main, 0.42)
    tiles[core > 0] = main
    stripes = (np.arange(SIDE) % 6 < 2)[:, None]
    tiles[(core > 0) & stripes] = tint(main, 0.72)
    return to_image(tiles)


def main() -> None:
    """Writes the five images."""
    ann = Person(skin="tan", hair="ginger", length="long", shirt="blue")
    snow = Picture("snow", subject=Subject("cat", "orange", "plain"), palette="mint")
    images = {
        "mug.png": draw_cut_out(Subject("mug", "red", "striped")),
        "fish.png": draw_cut_out(Subject("fish", "blue", "dotted")),
        "ann.png": draw_portrait(ann),
        "shirt.png": draw_shirt("green"),
        "mint.png": to_image(
            draw_tiles(snow, STYLE_TILES, STYLE_TILES, np.random.default_rng(0))
        ),
    }
    for name, image in images.items():
        image.save(HERE / name, optimize=True)
        print(HERE / name)


if __name__ == "__main__":
    main()
