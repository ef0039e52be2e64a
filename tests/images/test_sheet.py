"""Contact sheets: every image in its place, transparency shown."""

import numpy as np
import pytest
from PIL import Image

from dream_o.images.sheet import GAP, Cell, caption_height, contact_sheet

SIDE = 192


def test_images_stand_row_by_row_with_transparency_on_a_checkerboard() -> None:
    red = Image.new("RGB", (64, 64), "red")
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    rows = [[Cell((red,), "a"), Cell((clear,), "b")], [Cell((red,), "c")]]
    made = contact_sheet(rows, SIDE)
    caption = caption_height(SIDE)
    assert made.size == (2 * (SIDE + GAP) + GAP, 2 * (caption + SIDE + GAP) + GAP)
    pixels = np.asarray(made)
    first = GAP + caption
    assert (pixels[first + SIDE // 2, GAP + SIDE // 2] == (255, 0, 0)).all()
    second = pixels[first : first + SIDE, 2 * GAP + SIDE : 2 * GAP + 2 * SIDE]
    assert set(np.unique(second)) == {205, 255}
    assert (pixels[first + SIDE + GAP + caption + 5, GAP + 5] == (255, 0, 0)).all()


def test_a_row_with_a_caption_of_two_lines_is_higher() -> None:
    image = Image.new("RGB", (64, 64), "red")
    low, high = (contact_sheet([[Cell((image,), text)]], SIDE) for text in ("a", "a\nb"))
    assert high.height - low.height == caption_height(SIDE, 2) - caption_height(SIDE)


def test_no_images_no_sheet() -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], SIDE)
