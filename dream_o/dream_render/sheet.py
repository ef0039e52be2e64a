"""Contact sheets for the documentation: one request in every style, and with the designer."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.request import RenderRequest
from dream_o.dream_render.styles import NO_STYLE, known_styles
from dream_o.service.settings import Settings

logger = logging.getLogger(__name__)

SIDE = 512
THUMBNAIL = 192
LABEL = 18  # pixels under a thumbnail
COLUMNS = 7
SQUARE = 12  # of the checkerboard that shows through transparent pixels
KEY = "contact-sheet"


def make_sheets(folder: Path, model: str, prompt: str, seed: int) -> list[Path]:
    """Writes `dream-render-styles.webp` and `dream-render-designer.webp` into the folder.

    The same arguments give the same pictures.
    """
    settings = replace(Settings.from_environ(), dev_keys=(KEY,))
    dream_render = DreamRender.load(settings)
    plain = RenderRequest(
        model=model, prompt=prompt, width=SIDE, height=SIDE, seed=seed, enhance_prompt=False
    )
    styles = [
        (name, dream_render.generate(replace(plain, styles=name), KEY).image)
        for name in (NO_STYLE, *known_styles())
    ]
    designer = [
        (f"designer={on}", dream_render.generate(replace(plain, designer=on), KEY).image)
        for on in (False, True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder / "dream-render-styles.webp", contact_sheet(styles, COLUMNS)),
        _write(folder / "dream-render-designer.webp", contact_sheet(designer, len(designer))),
    ]


def contact_sheet(labelled: Sequence[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Thumbnails with their names, row by row; transparent pixels on a checkerboard."""
    rows = math.ceil(len(labelled) / columns)
    sheet = Image.new("RGB", (columns * THUMBNAIL, rows * (THUMBNAIL + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (label, image) in enumerate(labelled):
        left, top = index % columns * THUMBNAIL, index // columns * (THUMBNAIL + LABEL)
        small = image.convert("RGBA").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        sheet.paste(_checkerboard(), (left, top))
        sheet.paste(small, (left, top), small)
        draw.text((left + 4, top + THUMBNAIL + 2), label, fill="black")
    return sheet


def _checkerboard() -> Image.Image:
    board = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (255, 255, 255))
    draw = ImageDraw.Draw(board)
    for x in range(0, THUMBNAIL, SQUARE):
        for y in range(x // SQUARE % 2 * SQUARE, THUMBNAIL, 2 * SQUARE):
            draw.rectangle((x, y, x + SQUARE - 1, y + SQUARE - 1), fill=(205, 205, 205))
    return board


def _write(path: Path, sheet: Image.Image) -> Path:
    sheet.save(path, quality=85, method=6)
    return path
