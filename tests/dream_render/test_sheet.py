"""The contact sheets of styles and designer."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dream_o.dream_render import sheet
from dream_o.dream_render.sheet import make_sheets
from dream_o.dream_render.styles import known_styles


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
