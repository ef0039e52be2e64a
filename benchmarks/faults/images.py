"""Crafted and damaged image files, opened as a reference is."""

import io
import random
import resource
import struct
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks.report import Row
from dream_o.errors import InputError
from dream_o.images.opening import open_image
from dream_o.references import OFFLINE, prepare

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
OTHERS = ("ICO", "PPM", "TGA", "PCX", "EPS", "PDF", "DDS", "SGI", "JPEG2000", "ICNS", "IM", "MSP")
MODES = ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "LAB")
SLOW_SECONDS = 10.0


def drawn(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """An image with something to see in it."""
    grey = np.random.default_rng(0).integers(0, 256, (size[1], size[0]), np.uint8)
    noise = Image.fromarray(grey)
    if mode in ("I;16", "I", "F", "LAB"):
        values = np.asarray(noise, np.float32)
        if mode == "LAB":
            return Image.merge("LAB", (noise, noise, noise))
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        return Image.fromarray((values * 200).astype(kinds[mode]))
    return noise.convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes | None:
    """The file, None if the format cannot hold this image."""
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow will not write some of these for ever
            image.save(file, kind, **options)
    except (OSError, ValueError, KeyError, SystemError):
        return None
    return file.getvalue()


def png(width: int, height: int, depth: int = 1, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG that says what it is told to, whatever is in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def crafted() -> Iterator[tuple[str, bytes]]:
    """Every format and mode, bombs, lies about sizes, other formats, and no images at all."""
    for kind in KINDS:
        for mode in MODES:
            content = encoded(drawn((64, 48), mode), kind)
            if content:
                yield f"{kind} {mode}", content
    for kind in OTHERS:
        content = encoded(drawn((64, 48)), kind)
        if content:
            yield f"other format {kind}", content
    yield "bomb", png(20_000, 20_000, rows=bytes(2501 * 20_000))
    yield "bomb of 2^31 pixels a side", png(2**31 - 1, 2**31 - 1)
    yield "empty rows", png(4000, 4000)
    yield "no pixels", png(0, 0)
    yield "16 bits", png(64, 64, 16, 2, bytes(64 * (1 + 64 * 6)))
    yield "unknown colour", png(64, 64, 8, 5)
    frames = [drawn((64, 48)) for _ in range(200)]
    for kind in ("GIF", "WEBP", "TIFF"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        if content:
            yield f"200 frames {kind}", content
    scans = encoded(drawn((600, 600)), "JPEG", progressive=True)
    assert scans is not None
    start = scans.index(b"\xff\xda")
    yield "500 scans", scans[:start] + (scans[start:-2] * 500)[:2_000_000] + b"\xff\xd9"
    for size in ((1, 1), (15, 400), (16, 16), (16, 320), (16, 321), (8000, 8000), (8001, 8000)):
        yield f"{size[0]} x {size[1]}", encoded(Image.new("L", size), "PNG") or b""
    for content in (b"", b"\0" * 5000, b"<svg/>", b"GIF89a", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP"):
        yield f"{content[:6]!r}", content


def damaged(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files of every format with bytes changed, removed, repeated or cut off."""
    draw = random.Random(seed)
    seeds = [(kind, encoded(drawn((96, 72)), kind)) for kind in KINDS]
    for number in range(count):
        kind, content = seeds[number % len(seeds)]
        if content is None:
            continue
        data = bytearray(content)
        for _ in range(draw.choice((1, 1, 3, 20))):
            # Half of the changes are in the head, where a file says what it is.
            at = draw.randrange(len(data) if draw.random() < 0.5 else min(64, len(data)))
            match draw.randrange(5):
                case 0:
                    data[at] ^= 1 << draw.randrange(8)
                case 1:
                    data[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
                case 2:
                    del data[at : at + draw.randrange(1, 50)]
                case 3:
                    data[at:at] = data[at : at + draw.randrange(1, 200)]
                case 4:
                    del data[max(1, at) :]
            if not data:
                break
        yield f"{kind} {number}", bytes(data)


def attack(files: Iterator[tuple[str, bytes]], name: str, problems: list[str]) -> Row:
    """Opens and prepares each file; a row of the report, and problems where there are any."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number, (file, content) in enumerate(files):
        begun = time.process_time()  # another program's load must not count
        try:
            image = open_image(io.BytesIO(content), "ref_image1")
            task = ("ip", "style", "id")[number % 3]
            prepare(image, task, 512, "ref_image1", OFFLINE)
            outcomes["used"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes["other"] += 1
            problems.append(f"{name}, {file}: {type(error).__name__}: {error}")
        seconds = time.process_time() - begun
        slowest = max(slowest, seconds)
        if seconds > SLOW_SECONDS:
            problems.append(f"{name}, {file}: {seconds:.1f} CPU seconds")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {
        "test": name,
        "cases": sum(outcomes.values()),
        "result": f"{outcomes['refused']} refused, {outcomes['used']} used, {outcomes['other']} "
        f"other; {slowest:.2f} CPU seconds at most; the process held at most {peak} MiB",
    }
