from PIL import Image

from dream_o.cli import references
from dream_o.cli.references import main
from tests.drawings import drawn_face


def test_a_line_for_each_image_and_a_sheet_of_those_that_can_be_used(tmp_path, capsys):
    face, hill, sheet = (tmp_path / name for name in ("face.png", "hill.png", "sheet.png"))
    Image.fromarray(drawn_face(128, 0.5)).save(face)
    Image.linear_gradient("L").save(hill)
    arguments = [str(face), str(hill), "--task", "id", "--sheet", str(sheet)]
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("accepted  face.png: 512 x 512, 1024 tokens")
    assert lines[1].startswith("refused   hill.png: ref_image1: no face found; use ref_task1=ip")
    assert lines[2] == "1 accepted, 1 refused"
    assert Image.open(sheet).width > 700


def test_all_accepted_is_success(tmp_path, capsys):
    hill = tmp_path / "hill.png"
    Image.linear_gradient("L").save(hill)
    assert main([str(hill), "--task", "style", "--resolution", "256"]) == 0
    assert "hill.png: 256 x 256, 256 tokens" in capsys.readouterr().out


def test_the_sheet_names_the_files(tmp_path, monkeypatch):
    shown = []

    def sheet_of(prepared):
        shown.extend(each.caption.split()[0] for each in prepared)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(references, "reference_sheet", sheet_of)
    for name in ("hill.png", "lake.png"):
        Image.linear_gradient("L").save(tmp_path / name)
    images = [str(tmp_path / name) for name in ("lake.png", "hill.png")]
    assert references.main([*images, "--task", "style", "--sheet", str(tmp_path / "s.png")]) == 0
    assert shown == ["lake.png", "hill.png"]
