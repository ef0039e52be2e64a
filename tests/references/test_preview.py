"""What people see of the references that the model sees."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from dream_o.images.sheet import GAP, SHEET, caption_height
from dream_o.references.contact_sheet import SIDE as CELL
from dream_o.references.contact_sheet import reference_sheet
from dream_o.references.prepared import Prepared
from tests.references.sheet import SHEET as SHEET_FILE
from tests.references.sheet import prepared

CAPTION = caption_height(CELL)


def reference(slot=1, before=(300, 200), after=(624, 416), task="ip"):
    return Prepared(slot, task, Image.new("RGB", before, "red"), Image.new("RGB", after, "blue"))


def test_caption_names_slot_task_size_and_tokens():
    assert reference().tokens == 39 * 26
    assert reference().caption == "ref_image1   ip   624 x 416   1014 tokens"
    assert reference(2, task="id", after=(512, 512)).tokens == 1024


def test_before_is_left_and_after_is_right_row_by_row():
    sheet = reference_sheet([reference(1), reference(2, before=(200, 900), after=(256, 1024))])
    assert sheet.mode == "RGB"
    # A row is as high as its higher image: 2/3 of the cell, then all of it.
    heights = (CELL * 2 // 3, CELL)
    assert sheet.size == (2 * CELL + 3 * GAP, sum(heights) + 2 * (CAPTION + GAP) + GAP)
    for row, high in enumerate(heights):
        middle = GAP + CAPTION + high // 2 + row * (heights[0] + GAP + CAPTION)
        assert sheet.getpixel((GAP + CELL // 2, middle)) == (255, 0, 0)
        assert sheet.getpixel((2 * GAP + CELL + CELL // 2, middle)) == (0, 0, 255)


def test_captions_are_drawn_above_their_row():
    pixels = np.asarray(reference_sheet([reference()]))
    assert (pixels[GAP : GAP + CAPTION - 4, GAP : GAP + 300] != SHEET).any()
    assert (pixels[:GAP] == SHEET).all()


def test_transparency_goes_on_white():
    clear = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    sheet = reference_sheet([Prepared(1, "ip", clear, Image.new("RGB", (64, 64)))])
    assert sheet.getpixel((GAP + CELL // 2, GAP + CAPTION + CELL // 2)) == (255, 255, 255)


def test_no_references_no_sheet():
    with pytest.raises(ValueError, match="at least one"):
        reference_sheet([])


def test_the_readmes_sheet_is_what_the_code_draws_today():
    with Image.open(SHEET_FILE) as sheet:
        today = reference_sheet(list(prepared()))
        assert sheet.size == today.size
        assert np.abs(np.asarray(sheet).astype(int) - np.asarray(today)).mean() < 2


def test_a_caption_has_the_file_s_name_where_there_is_one():
    named = dataclasses.replace(reference(), name="mug.png")
    assert named.caption == "mug.png   ip   624 x 416   1014 tokens"
