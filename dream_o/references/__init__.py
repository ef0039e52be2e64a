"""Prepares reference images in the way that DreamO was trained with.

TASKS has one function per task. A `Backend` finds subjects and faces; OFFLINE needs no files.
"""

import logging
from collections.abc import Callable

import numpy as np
from PIL import Image

from dream_o.errors import InputError
from dream_o.images.opening import on_white
from dream_o.references.backend import OFFLINE, Backend, Pixels, choose_backend
from dream_o.references.background import cut_out
from dream_o.references.face import Face, align, nearest_centre
from dream_o.references.resize import limit_longest_side, resize_to_area

logger = logging.getLogger(__name__)

__all__ = ["OFFLINE", "TASKS", "Backend", "choose_backend", "prepare", "resize_to_area"]

# The longest side, in pixels, at which a subject is cut out, which limits memory. The model gets at
# most 1024 x 1024.
SUBJECT_SIDE = 4096
# The longest side in pixels at which faces are detected, as in DreamO.
FACE_SEARCH_SIDE = 1024


def prepare(
    image: Image.Image, task: str, resolution: int, name: str, backend: Backend = OFFLINE
) -> Image.Image:
    """Prepares a reference for the model; the same image always gives the same pixels.

    Args:
        image: `RGB`, or `RGBA` if it has transparency, as `open_image` returns it.
        task: a key of TASKS: `ip` (subject on white), `id` (face on white), `style` (whole
            image).
        resolution: `ip` and `style` are scaled to about `resolution` x `resolution` pixels of
            area.
        name: the input's name for error messages, such as `ref_image1`.
        backend: finds subjects and faces.

    Returns:
        `RGB`, sides multiples of 16; 512 x 512 for `id`.

    Raises:
        InputError: the task is `id` and no face was found.
    """
    logger.info("%s: %s by the %s backend", name, task, backend.name)
    return Image.fromarray(TASKS[task](image, resolution, name, backend))


def _subject(image: Image.Image, resolution: int, name: str, backend: Backend) -> Pixels:
    if image.mode == "RGBA":  # already cut out by the user
        pixels = _pixels(image)
    else:
        pixels = limit_longest_side(_pixels(image), SUBJECT_SIDE)
        pixels = cut_out(pixels, backend.matte(pixels))
    return resize_to_area(pixels, resolution)


def _face(image: Image.Image, resolution: int, name: str, backend: Backend) -> Pixels:
    pixels = limit_longest_side(_pixels(image), FACE_SEARCH_SIDE)
    faces = backend.find_faces(pixels)
    aligned = _aligned(pixels, faces) if faces else None
    if aligned is None:
        task = name.replace("image", "task")
        raise InputError(
            name, f"no face found; use {task}=ip or style, or a photo with a visible face"
        )
    return cut_out(aligned, backend.face_mask(aligned))


def _aligned(pixels: Pixels, faces: list[Face]) -> Pixels | None:
    return align(pixels, nearest_centre(faces, *pixels.shape[:2]).find_landmarks())


def _whole(image: Image.Image, resolution: int, name: str, backend: Backend) -> Pixels:
    return resize_to_area(_pixels(image), resolution)


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(on_white(image))


TASKS: dict[str, Callable[[Image.Image, int, str, Backend], Pixels]] = {
    "ip": _subject,
    "id": _face,
    "style": _whole,
}
