"""Random textures: what surfaces of the drawn subjects and grounds look like.

Every texture is `(height, width, 3)` float32 from 0 to 1 and a function of its random generator.
"""

import colorsys
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

# Smaller textures are parts of textures with such sides, in pixels.
LEAST = 32

Pixels = NDArray[np.float32]
Palette = NDArray[np.float32]


def draw_palette(random: np.random.Generator, count: int = 4) -> Palette:
    """Colours that go together, `(count, 3)`: near one hue, or of any hue, or without one."""
    hue = random.uniform()
    spread = random.choice([0.03, 0.12, 0.5])
    saturation = random.choice([0.05, 0.25, 0.5, 0.8])
    value = random.uniform(0.15, 0.9)
    reach = random.choice([0.1, 0.3, 0.5])
    colours = [
        colorsys.hsv_to_rgb(
            (hue + random.uniform(-spread, spread)) % 1,
            float(np.clip(saturation + random.uniform(-0.2, 0.2), 0, 1)),
            float(np.clip(value + random.uniform(-reach, reach), 0.02, 1)),
        )
        for _ in range(count)
    ]
    return np.array(colours, np.float32)


def draw_noise(random: np.random.Generator, height: int, width: int, slope: float) -> Pixels:
    """Noise of several octaves, `(height, width)` from 0 to 1; a higher slope is smoother."""
    total = np.zeros((height, width), np.float32)
    cells = int(random.integers(2, 6))
    weight = 1.0
    while cells < max(height, width):
        size = max(2, round(cells * height / width)) if height < width else cells
        coarse = random.standard_normal((size, cells), np.float32)
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        weight /= slope
        cells *= 2
    low, high = np.percentile(total, (1, 99))
    return np.clip((total - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def color_by(levels: Pixels, palette: Palette) -> Pixels:
    """Maps levels from 0 to 1 through the palette, blending neighbouring colours."""
    places = np.linspace(0, 1, len(palette))
    table = [np.interp(np.linspace(0, 1, 256), places, channel) for channel in palette.T]
    return np.stack(table, axis=1).astype(np.float32)[(levels * 255).astype(np.uint8)]


def _flat(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    return np.broadcast_to(palette[0], (height, width, 3)).astype(np.float32)


def _gradient(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    if random.uniform() < 0.5:
        turn = random.uniform(0, 2 * np.pi)
        levels = x * np.cos(turn) + y * np.sin(turn)
    else:
        levels = np.hypot(x - random.uniform(-1, 1), y - random.uniform(-1, 1))
    levels = (levels - levels.min()) / (levels.max() - levels.min())
    return color_by(levels.astype(np.float32), palette[: int(random.integers(2, len(palette) + 1))])


def _cloud(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    return color_by(draw_noise(random, height, width, random.uniform(1.1, 2.6)), palette)


def _grain(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    step = int(random.integers(1, 5))
    size = -(-height // step), -(-width // step)
    if random.uniform() < 0.3:
        coarse = random.uniform(0, 1, (*size, 3)).astype(np.float32)
    else:
        coarse = palette[random.integers(0, len(palette), size)]
        coarse = coarse + random.normal(0, 0.05, coarse.shape)
    grown = coarse.repeat(step, axis=0).repeat(step, axis=1)[:height, :width]
    return np.clip(grown, 0, 1).astype(np.float32)


def _bands(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    """Stripes, or a check where there are two directions, of plain or blended colours."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = random.choice([0, np.pi / 2, random.uniform(0, np.pi)])
    period = random.uniform(4, 40)
    bend = draw_noise(random, height, width, 2.5) * random.choice([0, 0, 10, 30])
    along = x * np.cos(turn) + y * np.sin(turn) + bend
    levels = (along / period) % 1
    if random.uniform() < 0.4:
        across = y * np.cos(turn) - x * np.sin(turn) + bend
        levels = (levels + (across / period) % 1) / 2
    if random.uniform() < 0.6:
        return palette[(levels * len(palette)).astype(int) % len(palette)]
    return color_by(np.abs(2 * levels - 1).astype(np.float32), palette)


def _dots(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    period = random.uniform(6, 30)
    shifted = x + (np.floor(y / period) % 2) * period / 2
    off = np.hypot(shifted % period - period / 2, y % period - period / 2)
    return palette[(off < period * random.uniform(0.15, 0.4)).astype(int)]


def _bricks(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    high, wide = random.uniform(5, 25), random.uniform(10, 60)
    row = np.floor(y / high)
    shifted = x + (row % 2) * wide / 2
    number = (row * 31 + np.floor(shifted / wide) * 17).astype(int)
    jitter = random.uniform(-0.08, 0.08, (997, 1)).astype(np.float32)
    stones = palette[1 + number % (len(palette) - 1)] + jitter[number % 997]
    joint = (y % high < 1.5) | (shifted % wide < 1.5)
    return np.clip(np.where(joint[..., None], palette[0], stones), 0, 1).astype(np.float32)


def _leaves(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    """Shapes of all sizes that cover each other, the sizes as in photographs: many small ones."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = palette[0]
    largest = random.uniform(0.1, 0.5) * max(height, width)
    least = max(2.0, largest / 12)
    for _ in range(int(random.integers(80, 220))):
        radius = least / np.sqrt(random.uniform((least / largest) ** 2, 1))
        at = random.uniform(0, (width, height))
        colour = palette[random.integers(len(palette))] + random.normal(0, 0.06, 3)
        draw_shape(image, random, at, radius, np.clip(colour, 0, 1).tolist())
    return image


def _fur(random: np.random.Generator, height: int, width: int, palette: Palette) -> Pixels:
    """Noise drawn out along one direction: hair, wood, brushed metal, grass."""
    noise = random.standard_normal((height, width), np.float32)
    length = int(random.integers(7, 31))
    kernel = np.zeros((length, length), np.float32)
    turn = random.uniform(0, np.pi)
    middle, reach = length / 2 - 0.5, length / 2 - 1
    ends = [
        (round(middle + way * reach * np.cos(turn)), round(middle + way * reach * np.sin(turn)))
        for way in (-1, 1)
    ]
    cv2.line(kernel, ends[0], ends[1], 1)
    drawn = cv2.filter2D(noise, -1, kernel / kernel.sum())
    drawn = drawn / drawn.std() * 0.2 + draw_noise(random, height, width, 2.0)
    return color_by(np.clip(drawn, 0, 1).astype(np.float32), palette)


def draw_shape(
    image: Pixels,
    random: np.random.Generator,
    at: NDArray[np.float64],
    radius: float,
    colour: object,
) -> None:
    """Draws a random ellipse, box or polygon, in place."""
    kind = random.integers(3)
    x, y = (round(float(v)) for v in at)
    if kind == 0:
        axes = max(1, round(radius)), max(1, round(radius * random.uniform(0.3, 1)))
        cv2.ellipse(image, (x, y), axes, random.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
        return
    corners = 4 if kind == 1 else int(random.integers(3, 8))
    turns = np.sort(random.uniform(0, 2 * np.pi, corners))
    if kind == 1:
        turns = random.choice([0.25, random.uniform()]) * np.pi + np.arange(4) * np.pi / 2
    points = at + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    cv2.fillPoly(image, [np.rint(points).astype(np.int32)], colour, cv2.LINE_AA)


TEXTURES: dict[str, Callable[[np.random.Generator, int, int, Palette], Pixels]] = {
    "flat": _flat,
    "gradient": _gradient,
    "cloud": _cloud,
    "grain": _grain,
    "bands": _bands,
    "dots": _dots,
    "bricks": _bricks,
    "leaves": _leaves,
    "fur": _fur,
}


def draw_texture(
    random: np.random.Generator, height: int, width: int, palette: Palette | None = None
) -> Pixels:
    """A random texture, at times two of them blended."""
    if palette is None:
        palette = draw_palette(random)
    rows, columns = height, width
    height, width = max(LEAST, height), max(LEAST, width)
    names = list(TEXTURES)
    image = TEXTURES[names[random.integers(len(names))]](random, height, width, palette)
    if random.uniform() < 0.3:
        other = TEXTURES[names[random.integers(len(names))]](random, height, width, palette)
        share = draw_noise(random, height, width, 2.0)[..., None] * random.uniform(0.2, 1)
        image = image * (1 - share) + other * share
    if random.uniform() < 0.5:
        light = 1 + random.uniform(0.05, 0.5) * (draw_noise(random, height, width, 2.5) - 0.5)
        image = image * light[..., None]
    return np.ascontiguousarray(np.clip(image[:rows, :columns], 0, 1), np.float32)
