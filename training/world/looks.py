"""The looks of DreamRender's styles: how each one changes a drawn image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.world.colours import BRIGHTNESS, Colour

Tiles = NDArray[np.uint8]
Values = NDArray[np.floating[Any]]

# The difference of two neighbouring tiles, summed over the channels, at which there is a contour.
CONTOUR = 60


@dataclass(frozen=True)
class Look:
    """How a style changes an image; the steps are taken in the order of the attributes.

    Attributes:
        saturation: 0 leaves greys, 1 keeps the colours.
        contrast: a factor of the distance from middle grey.
        inks: the dark and the light colour to which brightness is mapped.
        mix: the share of the inks' colours in the result.
        lines: the colour of contours, or None for no contours.
        grain: a key of GRAINS, or None.
    """

    saturation: float = 1.0
    contrast: float = 1.0
    inks: tuple[Colour, Colour] = ((0, 0, 0), (255, 255, 255))
    mix: float = 0.0
    lines: Colour | None = None
    grain: str | None = None


def _places(values: Values) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    places = np.indices(values.shape[:2])
    return places[0], places[1]


def _dots(values: Values) -> Values:
    """Dark dots at every fourth tile, as printed comics have them."""
    rows, columns = _places(values)
    dark = (rows % 4 == 0) & ((columns + rows // 2) % 4 == 0)
    return np.where(dark[..., None], values * 0.72, values)


def _hatching(values: Values) -> Values:
    """Diagonal lines where the image is dark."""
    rows, columns = _places(values)
    dark = ((rows + columns) % 4 == 0) & (values @ BRIGHTNESS < 190)
    return np.where(dark[..., None], values * 0.6, values)


def _weave(values: Values) -> Values:
    """Alternately lighter and darker tiles, like stitches."""
    rows, columns = _places(values)
    return values * np.where((rows + columns) % 2 == 0, 1.1, 0.86)[..., None]


def _facets(values: Values) -> Values:
    """Triangles of different brightness."""
    rows, columns = _places(values)
    turned = (rows % 8 + columns % 8) >= 8
    even = (rows // 8 + columns // 8) % 2 == 0
    return values * np.where(turned == even, 1.12, 0.86)[..., None]


def _leads(values: Values) -> Values:
    """Dark lines around panes of eight tiles."""
    rows, columns = _places(values)
    dark = (rows % 8 == 0) | (columns % 8 == 0)
    return np.where(dark[..., None], values * 0.25, values)


def _scan(values: Values) -> Values:
    """Every other row is darker."""
    rows, _ = _places(values)
    return np.where((rows % 2 == 0)[..., None], values * 0.8, values)


def _fall(values: Values) -> Values:
    """Light from above."""
    return values * np.linspace(1.25, 0.7, len(values))[:, None, None]


def _bars(values: Values) -> Values:
    """Black bars above and below, as on a cinema's screen."""
    high = len(values) // 10
    values = values.copy()
    values[:high] = values[-high:] = 12
    return values


def _coarse(values: Values) -> Values:
    """Blocks of two by two tiles of one colour."""
    rows, columns = _places(values)
    return values[rows // 2 * 2, columns // 2 * 2]


GRAINS: Mapping[str, Callable[[Values], Values]] = {
    "dots": _dots,
    "hatching": _hatching,
    "weave": _weave,
    "facets": _facets,
    "leads": _leads,
    "scan": _scan,
    "fall": _fall,
    "bars": _bars,
    "coarse": _coarse,
}

_BLACK, _PAPER, _INK = (16, 16, 22), (252, 250, 244), (28, 26, 34)

LOOKS: Mapping[str, Look] = {
    "photographic": Look(contrast=1.15, grain="fall"),
    "cinematic": Look(0.8, 1.0, ((0, 46, 60), (255, 206, 150)), 0.5, grain="bars"),
    "analog-film": Look(0.7, 0.8, ((64, 44, 40), (255, 240, 205)), 0.5),
    "black-and-white": Look(0.0, 1.2),
    "portrait-studio": Look(0.75, 0.9, ((30, 26, 30), (222, 206, 196)), 0.4, grain="fall"),
    "product-photo": Look(1.1, 1.0, ((150, 150, 156), (255, 255, 255)), 0.4),
    "macro": Look(1.5, 1.3),
    "anime": Look(1.4, 1.05, lines=(70, 30, 60)),
    "comic-book": Look(1.4, 1.3, lines=_BLACK, grain="dots"),
    "manga": Look(0.0, 1.4, lines=_BLACK, grain="dots"),
    "digital-art": Look(1.3, 1.1, ((40, 10, 90), (150, 255, 250)), 0.3),
    "concept-art": Look(0.6, 1.0, ((40, 50, 66), (226, 214, 196)), 0.5, grain="hatching"),
    "fantasy-art": Look(1.1, 1.0, ((70, 10, 110), (255, 226, 130)), 0.45),
    "oil-painting": Look(1.0, 1.0, ((54, 26, 8), (250, 216, 140)), 0.45, grain="weave"),
    "watercolor": Look(0.9, 0.6, ((190, 196, 210), _PAPER), 0.5),
    "gouache": Look(0.8, 0.75, ((90, 84, 96), (244, 232, 214)), 0.3),
    "pencil-sketch": Look(0.0, 0.5, ((150, 150, 152), _PAPER), 0.75, (74, 74, 80), "hatching"),
    "line-art": Look(0.0, 0.0, (_PAPER, _PAPER), 1.0, _INK),
    "pastel": Look(0.7, 0.6, ((214, 180, 206), (255, 246, 236)), 0.45),
    "neon-punk": Look(1.0, 0.8, ((16, 6, 46), (60, 40, 120)), 0.75, (255, 60, 210)),
    "retro-futurism": Look(0.9, 1.0, ((0, 90, 96), (255, 214, 120)), 0.6),
    "steampunk": Look(0.2, 1.1, ((40, 22, 8), (226, 176, 96)), 0.7),
    "isometric": Look(1.1, 0.9, ((60, 70, 130), (236, 240, 255)), 0.35),
    "low-poly": Look(1.1, 1.0, grain="facets"),
    "3d-model": Look(0.5, 0.9, ((70, 74, 82), (236, 238, 242)), 0.35, grain="fall"),
    "modeling-compound": Look(1.2, 0.8, ((120, 50, 40), (255, 220, 200)), 0.35),
    "origami": Look(0.9, 0.8, ((120, 120, 130), (255, 255, 255)), 0.35, grain="facets"),
    "papercraft": Look(0.9, 0.9, ((120, 90, 70), (255, 250, 236)), 0.35, (255, 255, 252)),
    "pixel-art": Look(1.4, 1.2, grain="coarse"),
    "tile-texture": Look(0.9, 0.9, grain="leads"),
    "stained-glass": Look(1.7, 1.1, lines=_BLACK, grain="leads"),
    "embroidery": Look(1.0, 0.85, ((110, 80, 70), (250, 238, 214)), 0.3, grain="weave"),
}
"""The look of each of DreamRender's styles, by the style's name."""


def in_look(tiles: Tiles, look: Look) -> Tiles:
    """The image `(rows, columns, 3)` in a look."""
    contours = _contours(tiles)
    values = tiles.astype(np.float32)
    grey = (values @ BRIGHTNESS)[..., None]
    values = grey + look.saturation * (values - grey)
    values = 128 + look.contrast * (values - 128)
    dark, light = (np.array(ink, np.float32) for ink in look.inks)
    toned = dark + np.clip(grey / 255, 0, 1) * (light - dark)
    values = (1 - look.mix) * values + look.mix * toned
    if look.lines is not None:
        values[contours] = look.lines
    if look.grain is not None:
        values = GRAINS[look.grain](values)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _contours(tiles: Tiles) -> NDArray[np.bool_]:
    """The tiles that differ from the one below or to the right, `(rows, columns)`."""
    values = tiles.astype(np.int64)
    found = np.zeros(tiles.shape[:2], bool)
    found[:-1] |= np.abs(values[:-1] - values[1:]).sum(-1) > CONTOUR
    found[:, :-1] |= np.abs(values[:, :-1] - values[:, 1:]).sum(-1) > CONTOUR
    return found
