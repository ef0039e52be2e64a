"""Requests that must be refused, with the sentence that the caller gets, and odd ones that work.

Bytes stand for an uploaded file: a data URL over HTTP, `@file` on the command line.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import Image

SMALL = {"width": 768, "height": 768, "num_steps": 8, "ref_res": 256}
READABLE = "PNG, JPEG, WebP, GIF, TIFF, BMP or AVIF"


@dataclass(frozen=True)
class Refused:
    """Inputs beside `SMALL`, and the whole error."""

    name: str
    inputs: dict[str, Any]
    error: str


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A grey ramp: something to see in every mode."""
    ramp = Image.linear_gradient("L").resize(size)
    return ramp if mode == "L" else ramp.convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A whole 1-bit PNG of many pixels in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * height), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def noise(size: tuple[int, int]) -> Image.Image:
    """Pixels that do not compress, so that half a file is less than the image."""
    return Image.effect_noise(size, 80).convert("RGB")


def _not_an_image(name: str, content: bytes, what: str) -> Refused:
    return Refused(name, {"ref_image1": content}, f"ref_image1: {what}; send {READABLE}")


DAMAGED = f"the image is cut off or damaged; send a whole {READABLE} file"
NO_FACE = "ref_image{0}: no face found; use ref_task{0}=ip or style, or a photo with a visible face"

REFUSED = [
    _not_an_image(
        "text",
        b"hello, this is a text\n" * 40,
        "this is not an image, or it is cut off",
    ),
    _not_an_image("empty", b"", "the file is empty"),
    _not_an_image(
        "svg",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>',
        "this is an SVG drawing, not an image that can be used",
    ),
    _not_an_image(
        "html",
        b"<!DOCTYPE html><html><body>404</body></html>",
        "this is an HTML page, not an image that can be used",
    ),
    Refused(
        "half-a-png", {"ref_image1": encoded(noise((128, 96)))[:9000]}, f"ref_image1: {DAMAGED}"
    ),
    Refused(
        "half-a-jpeg",
        {"ref_image2": encoded(noise((128, 96)), "JPEG")[:2000]},
        f"ref_image2: {DAMAGED}",
    ),
    Refused(
        "bomb",
        {"ref_image1": bomb()},
        "ref_image1: the image has more than 64 megapixels; send a smaller one",
    ),
    Refused(
        "tiny",
        {"ref_image1": encoded(picture(size=(15, 40)))},
        "ref_image1: the image is 15 x 40 pixels; each side must be at least 16",
    ),
    Refused(
        "ribbon",
        {"ref_image2": encoded(picture(size=(16, 336)))},
        "ref_image2: the image is 16 x 336 pixels; one side may be at most 20 times as long "
        "as the other",
    ),
    Refused(
        "no-face",
        {"ref_image1": encoded(picture(size=(200, 200))), "ref_task1": "id"},
        NO_FACE.format(1),
    ),
    Refused(
        "no-face-in-slot-2",
        {"ref_image2": encoded(picture(size=(200, 200))), "ref_task2": "id"},
        NO_FACE.format(2),
    ),
    Refused(
        "width",
        {"width": 770},
        "width: 770 is not a multiple of 16; the nearest allowed values are 768 and 784",
    ),
    Refused(
        "height",
        {"height": 1023},
        "height: 1023 is not a multiple of 16; the nearest allowed values are 1008 and 1024",
    ),
    Refused(
        "cfg-window",
        {"cfg_start_step": 5, "cfg_end_step": 2},
        "cfg_start_step: 5 is greater than cfg_end_step (2); "
        "use a cfg_start_step of at most cfg_end_step",
    ),
    Refused(
        "blank-prompt",
        {"prompt": "  \n"},
        "prompt: is empty; describe the image, or give a reference image",
    ),
    Refused(
        "seed-below",
        {"seed": -2},
        "seed: -2 is out of range; use 0 to 2^64-1, or -1 for a random one",
    ),
    Refused(
        "seed-above",
        {"seed": 2**64},
        "seed: 18446744073709551616 is out of range; use 0 to 2^64-1, or -1 for a random one",
    ),
]


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


def _frames(kind: str) -> bytes:
    others = [picture().rotate(90 * turn) for turn in (1, 2)]
    return encoded(picture(), kind, save_all=True, append_images=others)


# Two odd but good images a request.
ACCEPTED = {
    "gif-and-webp-frames": (_frames("GIF"), _frames("WEBP")),
    "tiff-pages-and-turned-jpeg": (_frames("TIFF"), _turned()),
    "cmyk-and-16-bit": (
        encoded(picture("CMYK"), "JPEG"),
        encoded(Image.new("I;16", (64, 48), 40_000)),
    ),
    "palette-and-grey": (encoded(picture("P")), encoded(picture("L"))),
    "grey-alpha-and-alpha": (encoded(picture("LA")), encoded(picture("RGBA"))),
}
