"""script/predict: which files it writes, and which it keeps."""

import io

import pytest
from PIL import Image

from dream_o.cli import predict
from dream_o.images.writing import read_metadata
from tests.predicting import names_in
from tests.requests_table import picture


def test_the_output_path_is_alone_on_standard_output(recorder, tmp_path, capfd):
    assert predict.main(["-i", "prompt=a hill"]) == 0
    assert capfd.readouterr().out == "output.webp\n"
    assert names_in(tmp_path) == ["output.webp"]
    assert read_metadata("output.webp")["prompt"] == "a hill"


def test_an_output_is_replaced_and_nothing_else_is_left(recorder, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "image"
    target.write_bytes(b"older")
    assert predict.main(["-i", "prompt=x", "-o", str(target), "--overwrite"]) == 0
    assert Image.open(target).format == "WEBP"
    assert names_in(tmp_path / "there") == ["image"]
    assert names_in(temporary) == []


@pytest.mark.parametrize(
    ("file", "given", "kind"),
    [
        ("a.png", [], "PNG"),
        ("a.JPEG", [], "JPEG"),
        ("a.webp", [], "WEBP"),
        ("a", [], "WEBP"),
        ("a", ["-i", "output_format=jpg"], "JPEG"),
        ("a.png", ["-i", "output_format=png"], "PNG"),
    ],
)
def test_the_suffix_sets_the_format(recorder, file, given, kind):
    assert predict.main(["-i", "prompt=x", "-o", file, *given]) == 0
    assert Image.open(file).format == kind


def test_a_failure_keeps_the_older_output_and_hides_its_traceback(
    recorder, tmp_path, monkeypatch, capfd
):
    def fail(_: object) -> None:
        raise RuntimeError("something\nbroke")

    monkeypatch.setattr(recorder, "generate", fail)
    (tmp_path / "output.webp").write_bytes(b"older")
    assert predict.main(["-i", "prompt=a"]) == 1
    message = "error: RuntimeError: something broke (--debug shows the traceback)\n"
    assert capfd.readouterr() == ("", message)
    assert names_in(tmp_path) == ["output.webp"]
    assert (tmp_path / "output.webp").read_bytes() == b"older"

    assert predict.main(["-i", "prompt=a", "--debug"]) == 1
    shown = capfd.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith(message)


def test_outputs_without_a_name_are_numbered(recorder, tmp_path, capfd):
    (tmp_path / "output.webp").write_bytes(b"mine")
    assert predict.main(["-i", "prompt=x"]) == 0
    assert predict.main(["-i", "prompt=x"]) == 0
    assert predict.main(["-i", "prompt=x", "-i", "output_format=png"]) == 0
    assert capfd.readouterr().out == "output-2.webp\noutput-3.webp\noutput.png\n"
    assert (tmp_path / "output.webp").read_bytes() == b"mine"


def test_a_name_that_another_run_took_meanwhile_is_not_overwritten(
    recorder, tmp_path, monkeypatch, capfd
):
    generate = recorder.generate

    def and_meanwhile(request):
        for name in ("output.webp", "named.webp"):
            (tmp_path / name).write_bytes(b"of another run")
        return generate(request)

    monkeypatch.setattr(recorder, "generate", and_meanwhile)
    assert predict.main(["-i", "prompt=x"]) == 0
    assert capfd.readouterr().out == "output-2.webp\n"
    (tmp_path / "named.webp").unlink()
    assert predict.main(["-i", "prompt=x", "-o", "named.webp"]) == 1
    assert "-o named.webp: the file exists" in capfd.readouterr().err
    assert (tmp_path / "output.webp").read_bytes() == b"of another run"
    assert (tmp_path / "named.webp").read_bytes() == b"of another run"


def test_a_named_file_is_kept_unless_overwrite_is_given(nothing_loads, capfd):
    (nothing_loads / "a.png").write_bytes(b"mine")
    assert predict.main(["-i", "prompt=x", "-o", "a.png"]) == 1
    assert capfd.readouterr().err == (
        "error: -o a.png: the file exists; add --overwrite to replace it, or name another\n"
    )
    assert (nothing_loads / "a.png").read_bytes() == b"mine"


def test_a_preview_is_not_overwritten_either(nothing_loads, capfd):
    (nothing_loads / "a.references.webp").write_bytes(b"mine")
    assert predict.main(["-i", "prompt=x", "-o", "a.png", "--preview"]) == 1
    assert "-o a.references.webp: the file exists" in capfd.readouterr().err


def test_a_dash_writes_the_image_to_standard_output(recorder, tmp_path, capfdbinary):
    assert predict.main(["-i", "prompt=x", "-i", "output_format=png", "-o", "-"]) == 0
    image = Image.open(io.BytesIO(capfdbinary.readouterr().out))
    assert (image.format, image.size) == ("PNG", picture("RGB").size)
    assert names_in(tmp_path) == []
