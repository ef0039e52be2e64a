"""script/predict --preview: the references on a contact sheet beside the output."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dream_o.cli import predict
from dream_o.images.sheet import GAP
from dream_o.references.contact_sheet import SIDE as CELL
from dream_o.service.generator import DreamO, Result
from tests.drawings import drawn_face

without_model = SimpleNamespace(tokenizer_2=None, _execution_device=torch.device("cpu"))


class WithoutModel(DreamO):
    """Prepares references and gives a grey image."""

    def __init__(self):
        super().__init__(without_model, "none")

    def generate(self, request):
        self.prepare(request)
        return Result(Image.new("RGB", (64, 64)), {}, {"seed": 1})


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(DreamO, "load", lambda *_: WithoutModel())
    monkeypatch.chdir(tmp_path)
    Image.fromarray(drawn_face(128, 0.5)).save("face.png")
    return tmp_path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_each_reference_before_and_after(folder, capfd):
    arguments = ["-i", "prompt=x", "-i", "ref_image1=@face.png", "-i", "ref_task1=id"]
    arguments += ["-i", "ref_image2=@face.png", "-i", "ref_task2=style", "-o", "made.jpg"]
    assert predict.main([*arguments, "--preview"]) == 0
    captured = capfd.readouterr()
    assert captured.out == "made.jpg\n"
    assert "made.references.webp" in captured.err
    assert names_in(folder) == ["face.png", "made.jpg", "made.references.webp"]
    sheet = np.asarray(Image.open("made.references.webp"))
    assert sheet.shape[1] == 2 * CELL + 3 * GAP
    # Row 1 shows the face on white, row 2 the image as it is.
    middle = 2 * GAP + CELL + CELL // 2
    corners = [sheet[60, middle - CELL // 2 + 20], sheet[sheet.shape[0] - 30, middle]]
    assert corners[0].min() > 245
    assert corners[1].min() < 200


def test_a_reference_that_the_output_replaces_is_shown_as_it_was_sent(folder):
    arguments = ["-i", "prompt=x", "-i", "ref_image1=@face.png", "-i", "ref_task1=id"]
    assert predict.main([*arguments, "-o", "face.png", "--overwrite", "--preview"]) == 0
    assert Image.open("face.png").size == (64, 64)
    assert np.asarray(Image.open("face.references.webp")).std() > 20


def test_a_folder_in_the_sheet_s_place_is_told_before_anything_is_made(folder, capfd):
    (folder / "a.references.webp").mkdir()
    assert predict.main(["-i", "prompt=x", "-o", "a.webp", "--preview"]) == 1
    assert "a.references.webp: this is not a regular file" in capfd.readouterr().err
    assert not (folder / "a.webp").exists()


def test_nothing_is_written_without_the_option_or_without_references(folder):
    assert predict.main(["-i", "prompt=x", "-i", "ref_image1=@face.png"]) == 0
    assert predict.main(["-i", "prompt=x", "-o", "b.webp", "--preview"]) == 0
    assert names_in(folder) == ["b.webp", "face.png", "output.webp"]


def test_a_predictor_without_references_is_told_before_it_loads(folder, capfd):
    arguments = ["-p", "predict.py:DreamRenderPredictor", "-i", "dev_key=x", "--preview"]
    assert predict.main(arguments) == 1
    assert capfd.readouterr().err.startswith("error: --preview: this predictor has no reference")
