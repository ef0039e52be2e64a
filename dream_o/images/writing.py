"""Writes images, with the request that made them as metadata."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dream_o.errors import UserError, disk_problem
from dream_o.images.metadata import metadata_in, metadata_options
from dream_o.images.opening import on_white


@dataclass(frozen=True)
class OutputFormat:
    """How an `output_format` is written: Pillow's name, options by quality, support of alpha."""

    pillow: str
    options: Callable[[int], dict[str, Any]]
    alpha: bool


FORMATS: Mapping[str, OutputFormat] = {
    # Effort 2 of 6 takes half the time of Pillow's default of 4; files are up to a tenth larger.
    "webp": OutputFormat("WEBP", lambda quality: {"quality": quality, "method": 2}, alpha=True),
    "jpg": OutputFormat(
        "JPEG",
        # From quality 90 on, colour subsampling is the most visible loss: use 4:4:4.
        lambda quality: {"quality": quality, "subsampling": 0 if quality >= 90 else 2},
        alpha=False,
    ),
    # Level 2 of 9 takes a quarter of the time of the default 6; files are up to a quarter larger.
    "png": OutputFormat("PNG", lambda _: {"compress_level": 2}, alpha=True),
}


def write_image(
    image: Image.Image,
    output_format: str,
    quality: int,
    metadata: Mapping[str, Any],
    directory: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes the image to a new temporary file.

    The same image and metadata give the same bytes.

    Args:
        image: mode `RGB` or `RGBA`. webp and png keep alpha; for jpg the image is put on white.
        output_format: a key of FORMATS, also the file's suffix.
        quality: 0 to 100 for webp (lossy) and jpg, ignored by png.
        metadata: JSON values that `read_metadata` returns. A JPEG has room for 64 KB; longer
            metadata has its longest texts shortened, with a warning in the log.
        directory: the file's folder; by default the system's temporary folder.

    Returns:
        The file's path. After an error or a cancellation, no file is left.

    Raises:
        UserError: the file cannot be written.
    """
    chosen = FORMATS[output_format]
    if image.mode != "RGB" and not (chosen.alpha and image.mode == "RGBA"):
        image = on_white(image)
    try:
        return _write(image, chosen, output_format, int(quality), metadata, directory)
    except OSError as error:
        raise UserError(f"the image cannot be written: {disk_problem(error)}") from error


def _write(
    image: Image.Image,
    chosen: OutputFormat,
    suffix: str,
    quality: int,
    metadata: Mapping[str, Any],
    directory: str | os.PathLike[str] | None,
) -> Path:
    descriptor, path = tempfile.mkstemp(suffix=f".{suffix}", dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            image.save(
                file,
                format=chosen.pillow,
                **chosen.options(quality),
                **metadata_options(chosen.pillow, metadata),
            )
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return Path(path)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `metadata` that `write_image` was given; raises UserError if the file has none."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            return metadata_in(image)
    except (OSError, ValueError) as error:
        raise UserError("the image has no metadata of this project") from error
