"""Writing images with the request that made them."""

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
    """How one `output_format` is written: Pillow's name, options by quality, alpha or not."""

    pillow: str
    options: Callable[[int], dict[str, Any]]
    alpha: bool


FORMATS: Mapping[str, OutputFormat] = {
    # Effort 2 of 6: half the time of 4, which Pillow takes, for files up to a tenth larger.
    "webp": OutputFormat("WEBP", lambda quality: {"quality": quality, "method": 2}, alpha=True),
    "jpg": OutputFormat(
        "JPEG",
        # From quality 90 on, halved colour is what is seen first: keep it whole (4:4:4).
        lambda quality: {"quality": quality, "subsampling": 0 if quality >= 90 else 2},
        alpha=False,
    ),
    # Level 2 of 9: a quarter of the time of the usual 6, for files up to a quarter larger.
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
        image: mode `RGB` or `RGBA`; alpha is kept by webp and png and put on white by jpg.
        output_format: a key of FORMATS, which is also the file's suffix.
        quality: 0 to 100 for webp (lossy) and jpg, ignored by png.
        metadata: what JSON can hold; `read_metadata` gives it back. A JPEG has room for 64 KB of
            it: the longest texts are shortened to fit, and the log says so.
        directory: where the file goes; the system's temporary folder by default.

    Returns:
        The file's path. After any failure, cancellation included, no file is left.

    Raises:
        UserError: the disk refuses.
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
    """What `write_image` was given as `metadata`; UserError when the file holds none."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            return metadata_in(image)
    except (OSError, ValueError) as error:
        raise UserError("the image holds no metadata of this project") from error
