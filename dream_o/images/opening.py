"""Opens untrusted images safely."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from dream_o.errors import InputError

# Formats that Pillow decodes itself; EPS, for example, would start Ghostscript.
READABLE = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
READABLE_WORDS = "PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_SIDE_RATIO = 20

START_OF_SCAN, MAX_SCANS = b"\xff\xda", 100

WHITE = (255, 255, 255)
HASHED_ROWS = 256

# Other files that are sent by mistake, recognised by text in their first bytes (lower case).
MISTAKEN = {
    b"<svg": "an SVG drawing",
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML document",
    b"%pdf": "a PDF document",
    b"%!ps": "a PostScript document",
    b"ftypheic": "a HEIC photo",
}


def open_image(source: os.PathLike[str] | BinaryIO | str, name: str) -> Image.Image:
    """Opens an untrusted image as upright 8-bit sRGB; of an animation, the first frame.

    Args:
        source: a file's path, or an open binary file.
        name: the input's name for the error message, such as `ref_image1`.

    Returns:
        A loaded image, `RGBA` if at least one pixel is not opaque, otherwise `RGB`.

    Raises:
        InputError: the file does not exist, is not an image, or is cut off or damaged; the image
            has more than MAX_PIXELS (checked before decoding), a side under MIN_SIDE, or a side
            ratio over MAX_SIDE_RATIO.
    """
    if not isinstance(source, str | os.PathLike):
        return _decode(source, name)
    with _plain_file(source, name) as file:
        return _decode(file, name)


def file_hash(source: os.PathLike[str] | str, name: str) -> str:
    """SHA-256 of a file's bytes; raises InputError like `open_image` if it cannot be read."""
    with _plain_file(source, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _plain_file(source: os.PathLike[str] | str, name: str) -> Iterator[io.BufferedReader]:
    # Reading a device or a pipe could block or never end.
    if not Path(source).is_file():
        raise InputError(name, "the file does not exist or is not a regular file")
    try:
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(name, "the file cannot be read") from error


def on_white(image: Image.Image) -> Image.Image:
    """The image as `RGB`, with transparent pixels on white."""
    if image.mode == "RGB":
        return image
    # Converting an image to the mode that it already has would copy it.
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    ground = Image.new("RGB", rgba.size, WHITE)
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground


def content_hash(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels, the same for every file with this image."""
    digest = hashlib.sha256(repr((image.mode, image.size)).encode())
    for top in range(
        0, image.height, HASHED_ROWS
    ):  # a few rows at a time, to avoid a copy of a large image
        bottom = min(top + HASHED_ROWS, image.height)
        digest.update(image.crop((0, top, image.width, bottom)).tobytes())
    return digest.hexdigest()


def _decode(file: BinaryIO, name: str) -> Image.Image:
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    if not head:
        raise InputError(name, f"the file is empty; send {READABLE_WORDS}")
    with warnings.catch_warnings():
        # Pillow warns about large images and damaged tags; this module checks both itself.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=READABLE)
        except Image.DecompressionBombError as error:
            raise InputError(name, _too_large()) from error
        except Exception as error:  # decoders of damaged files raise many kinds of errors
            raise InputError(name, f"{_mistaken_for(head)}; send {READABLE_WORDS}") from error
        with image:
            _check_size(image.size, name)
            _check_scans(image, file, name)
            try:
                image.load()
                return _eight_bit(_upright(image))
            except Exception as error:
                raise InputError(
                    name, f"the image is cut off or damaged; send a whole {READABLE_WORDS} file"
                ) from error


def _too_large() -> str:
    return f"the image has more than {MAX_PIXELS // 1_000_000} megapixels; send a smaller one"


def _mistaken_for(head: bytes) -> str:
    head = head.lower()
    for mark, words in MISTAKEN.items():
        if mark in head:
            return f"this is {words}, not an image that can be used"
    return "this is not an image, or it is cut off"


def _check_size(size: tuple[int, int], name: str) -> None:
    short, long = sorted(size)
    said = f"the image is {size[0]} x {size[1]} pixels"
    if short * long > MAX_PIXELS:
        raise InputError(name, f"{said}, {_too_large().removeprefix('the image has ')}")
    if short < MIN_SIDE:
        raise InputError(name, f"{said}; each side must be at least {MIN_SIDE}")
    if long > MAX_SIDE_RATIO * short:
        raise InputError(
            name, f"{said}; one side may be at most {MAX_SIDE_RATIO} times as long as the other"
        )


def _check_scans(image: Image.Image, file: BinaryIO, name: str) -> None:
    # Each scan of a progressive JPEG costs a pass over all pixels; encoders write about ten scans.
    # In compressed data, 0xFF is never followed by the second byte of a marker.
    if image.format in ("JPEG", "MPO"):
        file.seek(0)
        scans = file.read().count(START_OF_SCAN)
        if scans > MAX_SCANS:
            raise InputError(name, f"the JPEG has {scans} scans; at most {MAX_SCANS} are allowed")


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # with damaged EXIF, the pixels are still usable
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts to 8-bit `RGB`, or `RGBA` if a pixel is not opaque; to sRGB if it has a profile."""
    profile = image.info.get("icc_profile")
    if image.mode[0] in "IF":
        image = _deep_to_eight(image)
    if image.mode in ("1", "P") or "transparency" in image.info:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("LA", "La", "PA", "RGBa"):
        image = image.convert("RGBA")
    image = _to_srgb(image, profile)
    if image.mode != "RGB" and not _is_transparent(image):
        image = image.convert("RGB")
    # The file's own metadata, such as its profile, must not be written into another file.
    image.info = {}
    return image


def _is_transparent(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] != 255


def _deep_to_eight(image: Image.Image) -> Image.Image:
    """Scales grey of 16 or 32 bits or floating point to 8 bits; Pillow would clip it to white."""
    values = np.asarray(image)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        # A lookup table avoids a 16-bit copy of a large image.
        table = np.rint(np.arange(65536) / 257).astype(np.uint8)
        grey = table[values]
    else:
        peaks = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        top = float(values.max())
        # Such files do not say which value is white, so use the smallest usual maximum that fits.
        peak = next((peak for peak in peaks if top <= peak), top)
        grey = np.rint(np.clip(values, 0, peak) * np.float32(255 / peak)).astype(np.uint8)
    eight = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)
        eight.putalpha(Image.fromarray(alpha))
    return eight


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts to sRGB by the ICC profile; unchanged if there is no usable profile."""
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    with suppress(Exception):  # with a damaged profile, keep the pixels unchanged
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # Most profiles are sRGB: keep those pixels unchanged.
            if "srgb" in ImageCms.getProfileDescription(source).lower():
                return image
        else:
            return image
        converted = ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode=target
        )
        if converted is not None:
            return converted
    return image
