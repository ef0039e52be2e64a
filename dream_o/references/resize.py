"""Sizes of reference images."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

# Two by two pixels of the latents, which the VAE makes 8 times smaller, are one token.
GRID = 16


def resize_to_area(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """The image at about `resolution` x `resolution` pixels in all, with its own proportions.

    Args:
        image: `(height, width, 3)` uint8.
        resolution: side of the square that has the wanted area, in pixels.

    Returns:
        `(height, width, 3)` uint8, sides multiples of 16 and at least 16; OpenCV's `INTER_AREA`.
        An image that already has such a size is returned as it is.
    """
    height, width = image.shape[:2]
    scale = math.sqrt(resolution**2 / (height * width))
    size = _on_grid(width * scale), _on_grid(height * scale)
    return image if size == (width, height) else _area(image, size)


def limit_longest_side(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The image made smaller (`INTER_AREA`) so that no side is over `longest` pixels."""
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    scale = longest / max(height, width)
    return _area(image, (max(1, round(width * scale)), max(1, round(height * scale))))


def _on_grid(side: float) -> int:
    return max(GRID, int(side) - int(side) % GRID)


def _area(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
