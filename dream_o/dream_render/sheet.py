"""Contact sheets for the documentation: a prompt in every style, and with the designer."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.request import RenderRequest
from dream_o.dream_render.styles import NO_STYLE, known_styles
from dream_o.images.sheet import Cell, contact_sheet
from dream_o.service.settings import Settings

logger = logging.getLogger(__name__)

SIDE = 512
THUMBNAIL = 192
COLUMNS = 7
KEY = "contact-sheet"


def make_sheets(folder: Path, model: str, prompt: str, seed: int) -> list[Path]:
    """Writes `dream-render-styles.webp` and `dream-render-designer.webp` into the folder.

    The same arguments give the same images.
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
    sheets = {"styles": _rows(styles, COLUMNS), "designer": _rows(designer, len(designer))}
    return [
        _write(folder / f"dream-render-{name}.webp", contact_sheet(rows, THUMBNAIL))
        for name, rows in sheets.items()
    ]


def _rows(labelled: Sequence[tuple[str, Image.Image]], columns: int) -> list[list[Cell]]:
    cells = [Cell((image,), label) for label, image in labelled]
    return [cells[start : start + columns] for start in range(0, len(cells), columns)]


def _write(path: Path, sheet: Image.Image) -> Path:
    sheet.save(path, quality=85, method=6)
    return path
