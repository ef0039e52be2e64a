"""Prepares reference images in the way that DreamO was trained with.

TASKS has one function per task. A `Backend` finds subjects and faces; OFFLINE needs no files.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from dream_o.errors import InputError
from dream_o.images.opening import on_white
from dream_o.references.backend import OFFLINE, Backend, Pixels, choose_backend
from dream_o.references.background import cut_out
from dream_o.references.doubts import doubt_of
from dream_o.references.face import Face, align, nearest_centre
from dream_o.references.resize import limit_longest_side, resize_to_area

logger = logging.getLogger(__name__)

__all__ = [
    "OFFLINE",
    "TASKS",
    "Backend",
    "WithRemarks",
    "choose_backend",
    "log_remarks",
    "prepare",
    "prepare_with_remarks",
    "resize_to_area",
]

# The longest side, in pixels, at which a subject is cut out, which limits memory. The model gets at
# most 1024 x 1024.
SUBJECT_SIDE = 4096
# The longest side in pixels at which faces are detected, as in DreamO.
FACE_SEARCH_SIDE = 1024


class WithRemarks(NamedTuple):
    """A prepared reference, and what a person should check in it: one sentence each."""

    image: Image.Image
    remarks: tuple[str, ...]


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
    prepared = prepare_with_remarks(image, task, resolution, name, backend)
    log_remarks(name, prepared.remarks)
    return prepared.image


def prepare_with_remarks(
    image: Image.Image, task: str, resolution: int, name: str, backend: Backend = OFFLINE
) -> WithRemarks:
    """Prepares a reference as `prepare` does, and says what about the result is doubtful.

    A remark is made if several faces were found, or if a cut-out is probably wrong
    (`doubts.py`). The caller shows the remarks.
    """
    logger.info("%s: %s by the %s backend", name, task, backend.name)
    made = TASKS[task](image, resolution, name, backend)
    return WithRemarks(Image.fromarray(made.pixels), made.remarks)


def log_remarks(name: str, remarks: Sequence[str]) -> None:
    """Logs the remarks about a reference, each as a warning."""
    for remark in remarks:
        logger.warning("%s: %s", name, remark)


class _Made(NamedTuple):
    pixels: Pixels
    remarks: tuple[str, ...] = ()


def _subject(image: Image.Image, resolution: int, name: str, backend: Backend) -> _Made:
    if image.mode == "RGBA":  # already cut out by the user
        return _Made(resize_to_area(_pixels(image), resolution))
    pixels = limit_longest_side(_pixels(image), SUBJECT_SIDE)
    matte = backend.matte(pixels)
    doubt = doubt_of(matte)
    remarks = (doubt,) if doubt else ()
    return _Made(resize_to_area(cut_out(pixels, matte), resolution), remarks)


def _face(image: Image.Image, resolution: int, name: str, backend: Backend) -> _Made:
    pixels = limit_longest_side(_pixels(image), FACE_SEARCH_SIDE)
    faces = backend.find_faces(pixels)
    aligned = _aligned(pixels, faces) if faces else None
    if aligned is None:
        task = name.replace("image", "task")
        raise InputError(
            name, f"no face found; use {task}=ip or style, or a photo with a visible face"
        )
    remarks: tuple[str, ...] = ()
    if len(faces) > 1:
        remarks = (f"{len(faces)} faces found: the one nearest to the image's centre is used",)
    return _Made(cut_out(aligned, backend.face_mask(aligned)), remarks)


def _aligned(pixels: Pixels, faces: list[Face]) -> Pixels | None:
    return align(pixels, nearest_centre(faces, *pixels.shape[:2]).find_landmarks())


def _whole(image: Image.Image, resolution: int, name: str, backend: Backend) -> _Made:
    return _Made(resize_to_area(_pixels(image), resolution))


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(on_white(image))


TASKS: dict[str, Callable[[Image.Image, int, str, Backend], _Made]] = {
    "ip": _subject,
    "id": _face,
    "style": _whole,
}
