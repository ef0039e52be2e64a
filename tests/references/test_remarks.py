"""What is doubtful about a reference reaches its sender: log, preview, command."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dream_o.cli.references import main
from dream_o.references import OFFLINE, prepare, prepare_with_remarks
from dream_o.references.contact_sheet import reference_sheet
from dream_o.references.prepared import Prepared
from tests.drawings import drawn_face

PIECES = np.zeros((300, 300), np.uint8)
PIECES[40:120, 40:260] = PIECES[180:260, 40:260] = 255
IN_PIECES = replace(OFFLINE, matte=lambda image: PIECES)
GREY = Image.new("RGB", (300, 300), "grey")


@pytest.fixture
def two_faces():
    wall = np.full((500, 900, 3), (120, 140, 160), np.uint8)
    wall[122:378, 10:266] = wall[122:378, 330:586] = drawn_face()
    return Image.fromarray(wall)


def test_a_doubtful_cut_out_has_a_remark_and_the_log_has_it(caplog):
    _, (remark,) = prepare_with_remarks(GREY, "ip", 256, "ref_image2", IN_PIECES)
    assert remark.startswith("the cut-out is in 2 pieces")
    assert not caplog.records
    prepare(GREY, "ip", 256, "ref_image2", IN_PIECES)
    assert f"ref_image2: {remark}" in caplog.messages


def test_several_faces_are_told(two_faces):
    assert prepare_with_remarks(two_faces, "id", 512, "ref_image1").remarks == (
        "2 faces found: the one nearest to the image's centre is used",
    )


def test_one_face_style_and_transparency_have_no_remarks(two_faces):
    face = Image.fromarray(drawn_face(256, 0.5))
    clear = GREY.convert("RGBA")
    for image, task in ((face, "id"), (two_faces, "style"), (clear, "ip")):
        assert prepare_with_remarks(image, task, 256, "ref_image1", IN_PIECES).remarks == ()


def test_the_preview_shows_remarks_below_the_caption():
    remark = "the cut-out is in 2 pieces; " + "check it " * 12
    plain = reference_sheet([Prepared(1, "ip", GREY, GREY)])
    remarked = reference_sheet([Prepared(1, "ip", GREY, GREY, remarks=(remark,))])
    assert remarked.width == plain.width
    # The remark takes two lines.
    assert 20 < remarked.height - plain.height < 60


def test_the_command_prints_remarks_below_the_images_line(two_faces, tmp_path, capsys):
    two_faces.save(tmp_path / "pair.png")
    assert main([str(tmp_path / "pair.png"), "--task", "id"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("accepted  pair.png")
    assert lines[1].strip() == (
        "pair.png: 2 faces found: the one nearest to the image's centre is used"
    )
