"""Draws the reference images of this folder and writes its requests.

Run it from the clone's root: `.venv/bin/python -m examples.draw`.
"""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from training.world.colours import COLOURS, shade, tint
from training.world.drawing import (
    Contents,
    Person,
    Subject,
    draw_cut_out,
    draw_portrait,
    draw_tiles,
    to_image,
)
from training.world.subjects import SIDE

HERE = Path(__file__).parent
STYLE_TILES = 64
"""Rows and columns of the style image: 1024 pixels, 16 of them a tile."""


def draw_shirt(colour: str) -> Image.Image:
    """A striped T-shirt on white, 512 x 512 `RGB`, in tiles of 16 pixels."""
    main = COLOURS[colour]
    right = [(19, 5), (24, 6), (30, 13), (26, 17), (23, 14), (23, 28)]
    left = [(SIDE - 1 - column, row) for column, row in reversed(right)]
    inside = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(inside, [np.array(right + left, np.int32)], 1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    core = cv2.erode(inside, cross)
    tiles = np.full((SIDE, SIDE, 3), 255, np.uint8)
    tiles[inside > 0] = shade(main, 0.42)
    tiles[core > 0] = main
    stripes = (np.arange(SIDE) % 6 < 2)[:, None]
    tiles[(core > 0) & stripes] = tint(main, 0.72)
    return to_image(tiles)


def draw_references() -> dict[str, Image.Image]:
    """The reference images by file name."""
    ann = Person(skin="tan", hair="ginger", length="long", shirt="blue")
    snow = Contents("snow", subject=Subject("cat", "orange", "plain"), palette="sepia")
    random = np.random.default_rng(0)
    return {
        "mug.png": draw_cut_out(Subject("mug", "red", "striped")),
        "fish.png": draw_cut_out(Subject("fish", "blue", "dotted")),
        "ann.png": draw_portrait(ann),
        "shirt.png": draw_shirt("green"),
        "sepia.png": to_image(draw_tiles(snow, STYLE_TILES, STYLE_TILES, random)),
    }


def write_requests() -> None:
    """Bodies for `POST /predictions`: a prompt alone, with a reference, and with a webhook."""
    text = {"prompt": "a yellow star at night", "seed": 7}
    mug = base64.b64encode((HERE / "mug.png").read_bytes()).decode()
    reference = {
        "prompt": "this mug on the beach",
        "ref_image1": f"data:image/png;base64,{mug}",
        "ref_task1": "ip",
        "seed": 7,
    }
    bodies = {
        "text.json": {"input": text},
        "reference.json": {"input": reference},
        "webhook.json": {
            "input": text,
            "webhook": "http://127.0.0.1:9000/done",
            "webhook_events_filter": ["completed"],
        },
    }
    for name, body in bodies.items():
        (HERE / "requests" / name).write_text(json.dumps(body, indent=2) + "\n")
        print(HERE / "requests" / name)


def main() -> None:
    """Writes the five images and the three requests."""
    for name, image in draw_references().items():
        image.save(HERE / name, optimize=True)
        print(HERE / name)
    write_requests()


if __name__ == "__main__":
    main()
