"""Draws the embedded checkpoint's training images, objects on plain backgrounds, with captions.

An image shows an object of NOUNS in one colour, on a background of one colour. Some images have a
style of MANNERS; the captions name it with the words of the style preset.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dream_o.dream_render.prompts import DESIGNER_PROMPT
from dream_o.dream_render.styles import PLACEHOLDER, known_styles

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (205, 45, 45),
    "blue": (45, 90, 200),
    "green": (50, 150, 70),
    "yellow": (235, 200, 50),
    "orange": (235, 130, 40),
    "purple": (125, 60, 165),
    "black": (35, 35, 40),
    "white": (240, 240, 238),
}
GROUNDS: dict[str, RGB] = {
    "light grey": (225, 225, 228),
    "beige": (222, 205, 178),
    "sky blue": (160, 200, 230),
    "mint": (180, 220, 195),
    "dark": (60, 62, 75),
}
BARK: RGB = (125, 80, 45)
DETAIL: RGB = (45, 42, 48)
PALE: RGB = (245, 243, 238)

# Supersampling: images are drawn this many times larger.
OVER = 4


@dataclass(frozen=True)
class Scene:
    """What an image shows; `style` is a key of MANNERS or None."""

    noun: str
    colour: str
    ground: str
    style: str | None
    scale: float
    shift: Point


class Brush:
    """Draws in coordinates from -1 to 1 around the object's middle; y points down."""

    def __init__(self, draw: ImageDraw.ImageDraw, size: int, scene: Scene) -> None:
        self.draw = draw
        self.unit = size / 2 * scene.scale
        self.middle = (size / 2 * (1 + scene.shift[0]), size / 2 * (1 + scene.shift[1]))
        self.colour = COLOURS[scene.colour]

    def at(self, points: list[Point]) -> list[Point]:
        return [(self.middle[0] + x * self.unit, self.middle[1] + y * self.unit) for x, y in points]

    def polygon(self, points: list[Point], colour: RGB | None = None) -> None:
        self.draw.polygon(self.at(points), fill=colour or self.colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB | None = None) -> None:
        (left, top), (right, bottom) = self.at([(x - rx, y - ry), (x + rx, y + ry)])
        self.draw.ellipse((left, top, right, bottom), fill=colour or self.colour)

    def lighter(self, share: float) -> RGB:
        r, g, b = (round(c + (255 - c) * share) for c in self.colour)
        return (r, g, b)

    def darker(self, share: float) -> RGB:
        r, g, b = (round(c * (1 - share)) for c in self.colour)
        return (r, g, b)


def _shoe(b: Brush) -> None:
    b.polygon([(-0.9, -0.5), (-0.35, -0.5), (0.1, -0.05), (0.75, 0.1), (0.95, 0.35), (-0.9, 0.35)])
    b.polygon([(-0.95, 0.33), (1.0, 0.33), (0.97, 0.52), (-0.95, 0.52)], PALE)
    b.polygon([(-0.3, -0.35), (-0.15, -0.42), (0.2, -0.02), (0.05, 0.05)], b.lighter(0.6))


def _ball(b: Brush) -> None:
    b.ellipse(0, 0, 0.72, 0.72)
    b.ellipse(-0.25, -0.28, 0.25, 0.22, b.lighter(0.5))


def _mug(b: Brush) -> None:
    b.ellipse(0.5, 0.05, 0.38, 0.38)
    b.ellipse(0.5, 0.05, 0.2, 0.2, b.darker(0.5))
    b.polygon([(-0.65, -0.6), (0.5, -0.6), (0.45, 0.65), (-0.6, 0.65)])
    b.ellipse(-0.075, -0.6, 0.575, 0.13, b.darker(0.4))


def _bottle(b: Brush) -> None:
    half = [(0.13, -0.9), (0.13, -0.4), (0.35, -0.1), (0.35, 0.9)]
    b.polygon(half + [(-x, y) for x, y in reversed(half)])
    b.polygon([(-0.35, 0.15), (0.35, 0.15), (0.35, 0.6), (-0.35, 0.6)], PALE)


def _house(b: Brush) -> None:
    b.polygon([(-0.6, -0.1), (0.6, -0.1), (0.6, 0.75), (-0.6, 0.75)])
    b.polygon([(-0.8, -0.05), (0, -0.8), (0.8, -0.05)], b.darker(0.55))
    b.polygon([(-0.13, 0.3), (0.13, 0.3), (0.13, 0.75), (-0.13, 0.75)], DETAIL)
    for x in (-0.37, 0.37):
        b.polygon([(x - 0.12, 0.1), (x + 0.12, 0.1), (x + 0.12, 0.34), (x - 0.12, 0.34)], PALE)


def _tree(b: Brush) -> None:
    b.polygon([(-0.12, 0.1), (0.12, 0.1), (0.16, 0.9), (-0.16, 0.9)], BARK)
    for x, y, r in ((-0.35, -0.1, 0.42), (0.35, -0.1, 0.42), (0, -0.45, 0.48)):
        b.ellipse(x, y, r, r)


def _fish(b: Brush) -> None:
    b.polygon([(0.4, 0), (0.95, -0.45), (0.95, 0.45)], b.darker(0.3))
    b.ellipse(-0.15, 0, 0.7, 0.42)
    b.ellipse(-0.5, -0.1, 0.1, 0.1, PALE)
    b.ellipse(-0.52, -0.1, 0.05, 0.05, DETAIL)


def _car(b: Brush) -> None:
    b.polygon([(-0.5, -0.45), (0.35, -0.45), (0.6, 0), (-0.7, 0)], b.darker(0.25))
    b.polygon([(-0.42, -0.36), (0.28, -0.36), (0.45, -0.02), (-0.55, -0.02)], (190, 215, 230))
    b.polygon([(-0.95, -0.02), (0.95, -0.02), (0.95, 0.38), (-0.95, 0.38)])
    for x in (-0.5, 0.5):
        b.ellipse(x, 0.4, 0.22, 0.22, DETAIL)
        b.ellipse(x, 0.4, 0.09, 0.09, PALE)


def _star(b: Brush) -> None:
    b.polygon(
        [
            (r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5))
            for i, r in enumerate((0.9, 0.38) * 5)
        ]
    )


def _heart(b: Brush) -> None:
    b.ellipse(-0.35, -0.25, 0.42, 0.42)
    b.ellipse(0.35, -0.25, 0.42, 0.42)
    b.polygon([(-0.72, -0.05), (0.72, -0.05), (0, 0.8)])


NOUNS: dict[str, Callable[[Brush], None]] = {
    "shoe": _shoe,
    "ball": _ball,
    "mug": _mug,
    "bottle": _bottle,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "car": _car,
    "star": _star,
    "heart": _heart,
}

Pixels = NDArray[np.float32]


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L").point(lambda v: 255 * (v / 255) ** 1.2).convert("RGB")


def _contour(image: Image.Image, thickness: int) -> Image.Image:
    """The edges of all colour channels: 255 on lines `thickness` pixels wide, 0 elsewhere."""
    edges = image.filter(ImageFilter.GaussianBlur(OVER / 2)).filter(ImageFilter.FIND_EDGES)
    found = (np.asarray(edges).max(axis=-1) > 14).astype(np.uint8) * 255
    rim = 2 * OVER  # the filter finds an edge at the image's border
    inside = np.zeros_like(found)
    inside[rim:-rim, rim:-rim] = found[rim:-rim, rim:-rim]
    return Image.fromarray(inside).filter(ImageFilter.MaxFilter(thickness))


def _lines(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", image.size, (252, 252, 250))
    page.paste((25, 25, 30), mask=_contour(image, 2 * OVER + 1))
    return page


def _inked(image: Image.Image) -> Image.Image:
    inked = image.point(lambda v: min(255, round(v * 1.12 / 48) * 48))
    inked.paste((15, 15, 20), mask=_contour(image, 2 * OVER + 1))
    return inked


def _washed(image: Image.Image) -> Image.Image:
    soft = image.filter(ImageFilter.GaussianBlur(image.width / 60))
    return Image.blend(soft, Image.new("RGB", image.size, (250, 248, 242)), 0.45)


def _neon(image: Image.Image) -> Image.Image:
    night = Image.new("RGB", image.size, (18, 10, 40))
    night = Image.blend(image, night, 0.8)
    night.paste((255, 60, 210), mask=_contour(image, 3 * OVER + 1))
    glow = night.filter(ImageFilter.GaussianBlur(image.width / 40))
    return Image.fromarray(np.maximum(np.asarray(night), np.asarray(glow)))


def _film(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image, np.float32) / 255
    span = np.linspace(-1, 1, image.width, dtype=np.float32)
    dark = np.clip(1.15 - 0.55 * (span[:, None] ** 2 + span[None] ** 2), 0, 1)[..., None]
    light = pixels.mean(axis=-1, keepdims=True)
    graded = (
        pixels
        * dark
        * (np.array([1.1, 0.95, 0.75]) * light + np.array([0.6, 0.8, 0.85]) * (1 - light))
    )
    return Image.fromarray((np.clip(graded, 0, 1) * 255).astype(np.uint8))


# The style presets that the miniature knows.
MANNERS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "black-and-white": _grey,
    "line-art": _lines,
    "comic-book": _inked,
    "watercolor": _washed,
    "neon-punk": _neon,
    "cinematic": _film,
}


def random_scene(chance: random.Random) -> Scene:
    """A random scene; about four in ten have a style."""
    return Scene(
        noun=chance.choice(list(NOUNS)),
        colour=chance.choice(list(COLOURS)),
        ground=chance.choice(list(GROUNDS)),
        style=chance.choice(list(MANNERS)) if chance.random() < 0.4 else None,
        scale=chance.uniform(0.55, 0.7),
        shift=(chance.uniform(-0.06, 0.06), chance.uniform(-0.06, 0.06)),
    )


def caption(scene: Scene, chance: random.Random) -> str:
    """A random caption of the scene, as a user would write it; some leave attributes out."""
    thing = scene.noun if chance.random() < 0.25 else f"{scene.colour} {scene.noun}"
    if chance.random() < 0.4:
        thing = f"a {thing}"
    if scene.ground == "light grey" and chance.random() < 0.5:
        said = f"{thing}, {DESIGNER_PROMPT}"
    elif chance.random() < 0.7:
        said = f"{thing} on a {scene.ground} background"
    else:
        said = thing
    return known_styles()[scene.style].prompt.replace(PLACEHOLDER, said) if scene.style else said


def draw(scene: Scene, size: int) -> NDArray[np.uint8]:
    """Draws the scene, `(size, size, 3)` RGB uint8."""
    large = size * OVER
    ground = np.asarray(GROUNDS[scene.ground], np.float32)
    fall = np.linspace(1.05, 0.9, large, dtype=np.float32)[:, None, None]
    pixels = np.broadcast_to(np.clip(ground * fall, 0, 255), (large, large, 3))
    image = Image.fromarray(pixels.astype(np.uint8))
    brush = Brush(ImageDraw.Draw(image), large, scene)
    red, green, blue = (round(float(c) * 0.78) for c in ground)
    brush.ellipse(0.06, 0.72, 0.8, 0.13, (red, green, blue))
    NOUNS[scene.noun](brush)
    if scene.style:
        image = MANNERS[scene.style](image)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))
