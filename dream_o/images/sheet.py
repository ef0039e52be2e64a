"""Contact sheets: captioned images, row by row."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

# The space around images, in pixels. The sheet is not white, because references are.
GAP = 16
SHEET, INK = (214, 214, 218), (30, 30, 34)
# The checkerboard behind transparent pixels.
SQUARE, DARK = 12, (205, 205, 205)


class Cell(NamedTuple):
    """Images side by side under one caption, which may have several lines."""

    images: Sequence[Image.Image]
    caption: str


def text_size(side: int) -> int:
    """The captions' font size in pixels, for images of at most `side` pixels."""
    return max(11, side // 21)


def caption_height(side: int, lines: int = 1) -> int:
    """The pixels from the top of a caption to its images."""
    size = text_size(side)
    return size + 10 + (lines - 1) * (size + 4)


def contact_sheet(rows: Sequence[Sequence[Cell]], side: int) -> Image.Image:
    """Draws a sheet with the cells of each row side by side.

    Args:
        rows: cells from left to right.
        side: each image is scaled so that its longer side has this many pixels.

    Returns:
        `RGB`; transparent pixels are on a checkerboard.

    Raises:
        ValueError: there are no images.
    """
    images = [image for row in rows for cell in row for image in cell.images]
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    fitted = {id(image): _fitted(image, side) for image in images}
    font = ImageFont.load_default(text_size(side))
    captions = [max(caption_height(side, cell.caption.count("\n") + 1) for cell in r) for r in rows]
    heights = [max(fitted[id(image)].height for c in row for image in c.images) for row in rows]
    widest = max(sum(len(cell.images) for cell in row) for row in rows)
    height = GAP + sum(map(sum, zip(captions, heights, strict=True))) + GAP * len(rows)
    sheet = Image.new("RGB", (widest * (side + GAP) + GAP, height), SHEET)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, above, high in zip(rows, captions, heights, strict=True):
        left = GAP
        for cell in row:
            draw.text((left, top), cell.caption, INK, font)
            for image in cell.images:
                small = fitted[id(image)]
                place = left + (side - small.width) // 2, top + above + (high - small.height) // 2
                sheet.paste(small, place)
                left += side + GAP
        top += above + high + GAP
    return sheet


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # reducing_gap first shrinks by a whole factor: fast, and without a copy of a large photograph.
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if small.mode != "RGBA":
        return small.convert("RGB")
    ground = _checkerboard(size)
    ground.paste(small, mask=small)
    return ground


def _checkerboard(size: tuple[int, int]) -> Image.Image:
    board = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(board)
    for x in range(0, size[0], SQUARE):
        for y in range(x // SQUARE % 2 * SQUARE, size[1], 2 * SQUARE):
            draw.rectangle((x, y, x + SQUARE - 1, y + SQUARE - 1), fill=DARK)
    return board
