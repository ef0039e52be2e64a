"""Contact sheets: every picture in its place, transparency shown."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dream_o.dream_render import sheet
from dream_o.dream_render.sheet import LABEL, THUMBNAIL, contact_sheet, make_sheets
from dream_o.dream_render.styles import known_styles


def test_pictures_stand_row_by_row_with_transparency_on_a_checkerboard() -> None:
    red = Image.new("RGB", (64, 64), "red")
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    made = contact_sheet([("a", red), ("b", clear), ("c", red)], columns=2)
    assert made.size == (2 * THUMBNAIL, 2 * (THUMBNAIL + LABEL))
    pixels = np.asarray(made)
    assert (pixels[THUMBNAIL // 2, THUMBNAIL // 2] == (255, 0, 0)).all()
    assert len(np.unique(pixels[:THUMBNAIL, THUMBNAIL:, 0])) == 2
    assert (pixels[THUMBNAIL + LABEL + 5, 5] == (255, 0, 0)).all()


def test_the_command_writes_both_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "SIDE", 64)
    monkeypatch.setattr(sheet, "known_styles", lambda: {"anime": known_styles()["anime"]})
    paths = make_sheets(tmp_path / "images", "miniature", "a red shoe", 1)
    assert [path.name for path in paths] == [
        "dream-render-styles.webp",
        "dream-render-designer.webp",
    ]
    for path in paths:
        with Image.open(path) as made:
            assert np.asarray(made).std() > 0
