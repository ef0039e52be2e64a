"""The colours of the drawn world, as `(red, green, blue)` from 0 to 255."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

COLOURS: Mapping[str, Colour] = {
    "red": (214, 40, 48),
    "orange": (243, 134, 38),
    "yellow": (250, 212, 58),
    "green": (58, 166, 78),
    "blue": (50, 100, 214),
    "purple": (136, 66, 176),
    "pink": (246, 140, 184),
}
"""The colours of things and shirts that dream-o's miniature can draw."""

ALL_COLOURS: Mapping[str, Colour] = {
    **COLOURS,
    "black": (58, 54, 62),
    "white": (244, 242, 238),
    "brown": (138, 88, 54),
}

SKINS: Mapping[str, Colour] = {
    "pale": (248, 218, 194),
    "tan": (222, 166, 118),
    "dark": (150, 98, 68),
}

HAIRS: Mapping[str, Colour] = {
    "black": (34, 30, 36),
    "brown": (104, 62, 34),
    "blond": (238, 200, 96),
    "ginger": (206, 88, 36),
    "grey": (164, 164, 172),
}

PALETTES: Mapping[str, tuple[Colour, Colour, Colour]] = {
    "sepia": ((62, 38, 22), (176, 128, 82), (250, 232, 200)),
    "ink": ((16, 26, 78), (78, 120, 200), (222, 234, 252)),
    "mint": ((10, 62, 54), (66, 164, 130), (222, 250, 232)),
    "rose": ((84, 14, 54), (220, 96, 140), (255, 230, 232)),
}
"""The dark, middle and light colours of images in one ink."""

# The weights of perceived brightness (Rec. 601).
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


def shade(colour: Colour, share: float) -> Colour:
    """A darker colour: 1 keeps it, 0 is black."""
    red, green, blue = (round(part * share) for part in colour)
    return red, green, blue


def tint(colour: Colour, share: float) -> Colour:
    """A lighter colour: 0 keeps it, 1 is white."""
    red, green, blue = (round(part + (255 - part) * share) for part in colour)
    return red, green, blue


def in_palette(pixels: Pixels, palette: str) -> Pixels:
    """Maps the pixels of an image `(..., 3)` to a palette's colours by their brightness."""
    brightness = pixels @ BRIGHTNESS
    inks = np.array(PALETTES[palette], np.float64)
    mapped = [np.interp(brightness, (0, 128, 255), inks[:, part]) for part in range(3)]
    return np.rint(np.stack(mapped, axis=-1)).astype(np.uint8)
