"""Opening untrusted images, and writing images with the request that made them."""

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

# Formats that Pillow decodes in its own process; EPS, for one, would start Ghostscript.
READABLE = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
READABLE_WORDS = "PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_SIDE_RATIO = 20

START_OF_SCAN, MAX_SCANS = b"\xff\xda", 100

WHITE = (255, 255, 255)
HASHED_ROWS = 256

# What people send by mistake, by what its first bytes hold (lower case).
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
    """An untrusted image as 8-bit sRGB, upright: the first frame of an animation.

    Args:
        source: a file's path, or an open binary file.
        name: the input's name for the error message, such as `ref_image1`.

    Returns:
        A loaded image, mode `RGBA` where at least one pixel is not opaque, else `RGB`.

    Raises:
        InputError: no such file; not an image, cut off or damaged; over MAX_PIXELS (found from the
            header, before the pixels are decoded); a side under MIN_SIDE; a side ratio over
            1:MAX_SIDE_RATIO.
    """
    if not isinstance(source, str | os.PathLike):
        return _decode(source, name)
    with _plain_file(source, name) as file:
        return _decode(file, name)


def file_hash(source: os.PathLike[str] | str, name: str) -> str:
    """SHA-256 of a file's bytes; the errors of `open_image` where it is no file to be read."""
    with _plain_file(source, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _plain_file(source: os.PathLike[str] | str, name: str) -> Iterator[io.BufferedReader]:
    # A device or a pipe would block or never end.
    if not Path(source).is_file():
        raise InputError(name, "the file does not exist or is not a plain file")
    try:
        with Path(source).open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(name, "the file cannot be read") from error


def on_white(image: Image.Image) -> Image.Image:
    """The image as `RGB`, its transparent pixels on white."""
    if image.mode == "RGB":
        return image
    # Converting to the mode that it has would copy a large image.
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    ground = Image.new("RGB", rgba.size, WHITE)
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground


def content_hash(image: Image.Image) -> str:
    """SHA-256 of mode, size and pixels: the same for every file that holds this image."""
    digest = hashlib.sha256(repr((image.mode, image.size)).encode())
    for top in range(0, image.height, HASHED_ROWS):  # no copy of a large image
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
        # Pillow warns of large images and damaged tags; both are checked here.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(file, formats=READABLE)
        except Image.DecompressionBombError as error:
            raise InputError(name, _too_large()) from error
        except Exception as error:  # parsers of untrusted bytes raise all kinds of errors
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
    return "this is not an image, or only the beginning of one"


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
    # Each scan of a progressive JPEG is a pass over all its pixels; encoders write about ten. In
    # the compressed data a byte 0xFF is never followed by the marker's second byte.
    if image.format in ("JPEG", "MPO"):
        file.seek(0)
        scans = file.read().count(START_OF_SCAN)
        if scans > MAX_SCANS:
            raise InputError(name, f"the JPEG has {scans} scans; at most {MAX_SCANS} are allowed")


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # damaged EXIF: the pixels are still good
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """`RGB`, or `RGBA` where a pixel is not opaque; sRGB where a profile says what it was."""
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
    # What the file said of itself, a profile for one, is not to be written into another.
    image.info = {}
    return image


def _is_transparent(image: Image.Image) -> bool:
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] != 255


def _deep_to_eight(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floating point, scaled to 8 bits and not clipped to white."""
    values = np.asarray(image)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        # Through a table: no wide copy of a large image.
        table = np.rint(np.arange(65536) / 257).astype(np.uint8)
        grey = table[values]
    else:
        peaks = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        top = float(values.max())
        # Such files do not say which value is white: the least usual one that holds them all.
        peak = next((peak for peak in peaks if top <= peak), top)
        grey = np.rint(np.clip(values, 0, peak) * np.float32(255 / peak)).astype(np.uint8)
    eight = Image.fromarray(grey)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        alpha = np.where(np.asarray(image) == clear, 0, 255).astype(np.uint8)
        eight.putalpha(Image.fromarray(alpha))
    return eight


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB by its ICC profile; as it is when there is none or it is of no use."""
    target = "RGBA" if image.mode == "RGBA" else "RGB"
    with suppress(Exception):  # a damaged profile leaves the pixels as they are
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        elif profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            # Most profiles are sRGB itself: leave those pixels untouched.
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
