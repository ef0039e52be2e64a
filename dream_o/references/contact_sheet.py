"""Prepared references, and a contact sheet of them: what came in and what the model sees."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dream_o.images.opening import on_white
from dream_o.references.prepared import Prepared

# The longest side of a picture on the sheet, in pixels, and what is around it. References are on
# white: the sheet is not.
CELL, GAP, CAPTION = 384, 16, 28
SHEET, INK = (214, 214, 218), (30, 30, 34)
TEXT_SIZE = 18


def contact_sheet(references: Sequence[Prepared]) -> Image.Image:
    """The references one below the other, before on the left and after on the right, `RGB`.

    Raises ValueError for no references.
    """
    if not references:
        raise ValueError("a contact sheet needs at least one reference")
    rows = [(each, _fitted(each.before), _fitted(each.after)) for each in references]
    heights = [max(before.height, after.height) for _, before, after in rows]
    height = GAP + sum(CAPTION + high + GAP for high in heights)
    sheet = Image.new("RGB", (2 * CELL + 3 * GAP, height), SHEET)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_SIZE)
    top = GAP
    for (reference, *pictures), high in zip(rows, heights, strict=True):
        draw.text((GAP, top), reference.caption, INK, font)
        top += CAPTION
        for column, picture in enumerate(pictures):
            left = GAP + column * (CELL + GAP) + (CELL - picture.width) // 2
            sheet.paste(picture, (left, top + (high - picture.height) // 2))
        top += high + GAP
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    scale = CELL / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # Integer reduction first: a large photograph in a moment and without a second copy of it.
    return on_white(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0))
