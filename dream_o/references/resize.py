"""Resizes reference images."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

# A token is 2 x 2 latent pixels, and the VAE makes an image 8 times smaller.
GRID = 16


def resize_to_area(image: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Scales the image to about `resolution` x `resolution` pixels of area; keeps its proportions.

    Args:
        image: `(height, width, 3)` uint8.
        resolution: the side, in pixels, of a square with the wanted area.

    Returns:
        `(height, width, 3)` uint8, sides multiples of 16 and at least 16, scaled with OpenCV's
        `INTER_AREA`. An image that already has the right size is returned unchanged.
    """
    height, width = image.shape[:2]
    scale = math.sqrt(resolution**2 / (height * width))
    size = _on_grid(width * scale), _on_grid(height * scale)
    return image if size == (width, height) else _area(image, size)


def limit_longest_side(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Shrinks the image (`INTER_AREA`) so that no side is over `longest` pixels."""
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    scale = longest / max(height, width)
    return _area(image, (max(1, round(width * scale)), max(1, round(height * scale))))


def _on_grid(side: float) -> int:
    return max(GRID, int(side) - int(side) % GRID)


def _area(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
