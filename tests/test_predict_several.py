"""script/predict: several images (--count, --contact-sheet) and up to nine references."""

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dream_o.cli import predict
from dream_o.dream_render.generator import DreamRender
from dream_o.images.sheet import GAP
from dream_o.images.writing import read_metadata
from dream_o.service.generator import DreamO, Result
from dream_o.service.settings import Settings
from tests.drawings import drawn_face
from tests.forked import Forked
from tests.predicting import names_in
from tests.requests_table import encoded, picture
from tests.server.client import Receiver, environment


def test_seeds_count_up_from_the_given_one(recorder, tmp_path, capfd):
    assert predict.main(["-i", "prompt=x", "-i", "seed=7", "--count", "3"]) == 0
    assert [each.seed for each in recorder.requests] == [7, 8, 9]
    names = ["output.webp", "output-2.webp", "output-3.webp"]
    captured = capfd.readouterr()
    assert captured.out.split() == names
    assert "image 2 of 3\n" in captured.err
    assert [read_metadata(name)["seed"] for name in names] == [7, 8, 9]
    assert names_in(tmp_path) == sorted(names)


@pytest.mark.parametrize("seed", [[], ["-i", "seed=-1"]])
def test_without_a_seed_they_count_up_from_a_random_one(recorder, seed):
    for _ in range(2):
        assert predict.main(["-i", "prompt=x", *seed, "--count", "3"]) == 0
    seeds = [each.seed for each in recorder.requests]
    assert seeds[:3] == list(range(seeds[0], seeds[0] + 3))
    assert seeds[3:] == list(range(seeds[3], seeds[3] + 3))
    assert seeds[0] != seeds[3]


def test_a_named_file_is_numbered(recorder, tmp_path, capfd):
    assert predict.main(["-i", "prompt=x", "--count", "2", "-o", "hill.png"]) == 0
    assert capfd.readouterr().out == "hill-1.png\nhill-2.png\n"
    assert names_in(tmp_path) == ["hill-1.png", "hill-2.png"]
    assert predict.main(["-i", "prompt=x", "--count", "1", "-o", "hill.png"]) == 0
    assert capfd.readouterr().out == "hill.png\n"


def test_automatic_names_pass_over_files_that_are_there(recorder, tmp_path, capfd):
    (tmp_path / "output-2.webp").write_bytes(b"mine")
    assert predict.main(["-i", "prompt=x", "--count", "3"]) == 0
    assert capfd.readouterr().out == "output.webp\noutput-3.webp\noutput-4.webp\n"
    assert (tmp_path / "output-2.webp").read_bytes() == b"mine"


def test_overwrite_replaces_every_file_of_the_command(recorder, tmp_path):
    names = ["hill-1.webp", "hill-2.webp", "hill.sheet.webp"]
    for name in names:
        (tmp_path / name).write_bytes(b"older")
    arguments = ["-i", "prompt=x", "--count", "2", "--contact-sheet", "-o", "hill.webp"]
    assert predict.main([*arguments, "--overwrite"]) == 0
    assert names_in(tmp_path) == names
    assert all(Image.open(tmp_path / name).format == "WEBP" for name in names)


@pytest.mark.parametrize("there", ["hill-3.webp", "hill.sheet.webp"])
def test_a_file_that_would_be_replaced_is_told_before_anything_is_loaded(
    nothing_loads, there, capfd
):
    (nothing_loads / there).write_bytes(b"mine")
    arguments = ["-i", "prompt=x", "--count", "3", "--contact-sheet", "-o", "hill.webp"]
    assert predict.main(arguments) == 1
    assert capfd.readouterr().err == (
        f"error: -o {there}: the file exists; add --overwrite to replace it, or name another\n"
    )
    assert names_in(nothing_loads) == [there]


def test_the_contact_sheet_shows_every_image(recorder, tmp_path, monkeypatch, capfd):
    def of_its_seed(request):
        image = Image.new("RGB", (192, 96), (10 * request.seed, 0, 0))
        return Result(image, {}, {"seed": request.seed})

    monkeypatch.setattr(recorder, "generate", of_its_seed)
    arguments = ["-i", "prompt=x", "-i", "seed=10", "-i", "output_format=png", "--count", "5"]
    assert predict.main([*arguments, "--contact-sheet"]) == 0
    captured = capfd.readouterr()
    assert "contact sheet: output.sheet.webp\n" in captured.err
    assert "sheet" not in captured.out
    assert "output.sheet.webp" in names_in(tmp_path)
    sheet = np.int16(Image.open(tmp_path / "output.sheet.webp"))
    assert sheet.shape[1] == 3 * 384 + 4 * GAP, "three columns"
    shown = {level for level in range(100, 150, 10) if _has_area(sheet, (level, 0, 0))}
    assert shown == {100, 110, 120, 130, 140}


def _has_area(sheet, colour):
    return (abs(sheet - colour).max(axis=2) <= 4).sum() > 50_000


def test_the_sheet_has_the_name_of_the_first_image(recorder, tmp_path, capfd):
    (tmp_path / "output.sheet.webp").write_bytes(b"mine")
    assert predict.main(["-i", "prompt=x", "--count", "2", "--contact-sheet"]) == 0
    captured = capfd.readouterr()
    assert captured.out == "output-2.webp\noutput-3.webp\n"
    assert "contact sheet: output-2.sheet.webp\n" in captured.err
    assert (tmp_path / "output.sheet.webp").read_bytes() == b"mine"


def test_images_that_are_done_stay_if_a_later_one_fails(recorder, tmp_path, monkeypatch, capfd):
    generate = recorder.generate

    def fail_at_the_third(request):
        if request.seed == 9:
            raise RuntimeError("broken")
        return generate(request)

    monkeypatch.setattr(recorder, "generate", fail_at_the_third)
    arguments = ["-i", "prompt=x", "-i", "seed=7", "--count", "4", "--contact-sheet"]
    assert predict.main(arguments) == 1
    captured = capfd.readouterr()
    assert captured.out == "output.webp\noutput-2.webp\n"
    assert "error: RuntimeError: broken" in captured.err
    assert names_in(tmp_path) == ["output-2.webp", "output.webp"]


RENDER = ["-idev_key=x", "-imodel=x", "-iwidth=512", "-iheight=512"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--count", "0"], "--count 0: use 1 to 100"),
        (["--count", "101"], "--count 101: use 1 to 100"),
        (
            ["--count", "2", "-o", "-"],
            "-o -: standard output takes one image; give -o FILE with --count",
        ),
        (
            ["--count", "2", "--contact-sheet", "-o", "-"],
            "--contact-sheet names its file after the image; give -o FILE",
        ),
        (["--contact-sheet"], "--contact-sheet shows several images; add --count N"),
        (
            ["--count", "3", "-i", f"seed={2**64 - 2}"],
            f"seed: {2**64 - 2} and the 2 seeds after it go beyond 2^64-1; use a lower one",
        ),
        (
            ["--count", "3", "-i", "seed=-2"],
            "seed: -2 is out of range; use 0 to 2^64-1, or -1 for a random one",
        ),
        (
            ["--reference", "a.png"],
            "--reference a.png: give FILE:TASK, such as photo.jpg:ip; "
            "the tasks are ip, id and style",
        ),
        (
            ["--reference", "a.png:face"],
            "--reference a.png:face: give FILE:TASK, such as photo.jpg:ip; "
            "the tasks are ip, id and style",
        ),
        (["--reference", "absent.png:ip"], "ref_image1: there is no file absent.png"),
        (
            ["--reference", "a.png:ip", "-i", "ref_task2=id"],
            "ref_task2: give references either as -i or as --reference, not as both",
        ),
        (
            ["--reference", "a.png:ip"] * 10,
            "--reference is given 10 times; at most 9 are allowed",
        ),
        (
            ["-p", "predict.py:DreamRenderPredictor", *RENDER, "--reference", "a.png:ip"],
            "--reference: this predictor has no reference images; leave the option out",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_loaded(nothing_loads, arguments, error, capfd):
    assert predict.main(["-i", "prompt=a", *arguments]) == 1
    assert capfd.readouterr() == ("", f"error: {error}\n")
    assert names_in(nothing_loads) == []


def test_the_last_seed_may_be_the_largest(recorder):
    assert predict.main(["-i", "prompt=x", "-i", f"seed={2**64 - 2}", "--count", "2"]) == 0
    assert [each.seed for each in recorder.requests] == [2**64 - 2, 2**64 - 1]


def test_nine_references_from_files_and_the_web(recorder, tmp_path):
    files = [encoded(picture(size=(64 + slot, 48))) for slot in range(9)]
    for slot, content in enumerate(files[:8], start=1):
        (tmp_path / f"{slot}.png").write_bytes(content)
    Image.fromarray(drawn_face(128, 0.5)).save(tmp_path / "2.png")
    tasks = ["style", "id", *["ip"] * 7]
    with Receiver({"/photo.png": files[8]}) as web:
        places = [*(f"{slot}.png" for slot in range(1, 9)), f"{web.url}/photo.png"]
        options = [
            part
            for file, task in zip(places, tasks, strict=True)
            for part in ("--reference", f"{file}:{task}")
        ]
        assert predict.main(["-i", "prompt=x", *options]) == 0
    assert [each.task for each in recorder.request.references] == tasks
    files[1] = (tmp_path / "2.png").read_bytes()
    assert recorder.uploads == files


def test_one_reference_by_the_option_is_that_of_the_input(recorder, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    assert predict.main(["-i", "prompt=x", "--reference", "a.png:style"]) == 0
    assert predict.main(["-i", "prompt=x", "-i", "ref_image1=@a.png", "-i", "ref_task1=style"]) == 0
    by_option, by_input = ([*each.references] for each in recorder.requests)
    assert by_option == by_input


def test_a_reference_that_cannot_be_used_is_told_by_its_slot(nothing_loads, capfd):
    (nothing_loads / "hill.png").write_bytes(encoded(picture(size=(200, 200))))
    options = ["--reference", "hill.png:ip", "--reference", "hill.png:ip"]
    assert predict.main(["-i", "prompt=x", *options, "--reference", "hill.png:id"]) == 1
    assert capfd.readouterr().err == (
        "error: ref_image3: no face found; use ref_task3=ip or style, or a photo with a visible "
        "face\n"
    )


@pytest.fixture(scope="module")
def quick(quick_bundle):
    dream_o = DreamO.load(Settings(device="cpu", references="offline"), quick_bundle)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


def test_images_equal_single_calls_and_inputs_are_encoded_once(quick, monkeypatch, tmp_path):
    loads, encoded_inputs = [], []
    monkeypatch.setattr(DreamO, "load", lambda *_: loads.append(1) or quick)
    for name in ("encode_prompt", "encode_reference"):
        original = getattr(quick.pipeline, name)
        monkeypatch.setattr(
            quick.pipeline,
            name,
            lambda given, _o=original, _n=name: encoded_inputs.append(_n) or _o(given),
        )
    monkeypatch.chdir(tmp_path)
    options = []
    for number in range(3):
        picture(size=(64 + number, 48)).save(f"{number}.png")
        options += ["--reference", f"{number}.png:style"]
    settings = ["prompt=a hill", "width=768", "height=768", "num_steps=8", "ref_res=256"]
    options += [part for each in [*settings, "output_format=png"] for part in ("-i", each)]
    assert predict.main([*options, "-i", "seed=5", "--count", "2"]) == 0
    assert loads == [1]
    assert sorted(encoded_inputs) == ["encode_prompt", *["encode_reference"] * 3]
    assert predict.main([*options, "-i", "seed=6", "-o", "single.png"]) == 0
    assert Path("output-2.png").read_bytes() == Path("single.png").read_bytes()
    metadata = read_metadata("output-2.png")
    assert metadata["seed"] == 6
    assert [metadata[f"ref_task{slot}"] for slot in (1, 2, 3)] == ["style"] * 3
    assert Path("output.png").read_bytes() != Path("output-2.png").read_bytes()


def test_an_interruption_keeps_the_images_that_are_done(quick_bundle, tmp_path):
    logs, work, temporary = (tmp_path / name for name in ("logs", "work", "temporary"))
    for folder in (logs, work, temporary):
        folder.mkdir()
    inputs = ["-iprompt=a hill", "-inum_steps=8", "-iwidth=768", "-iheight=768"]
    arguments = [*inputs, "--count=50", "--contact-sheet"]
    environ = environment(temporary, quick_bundle)
    command = Forked(predict.main, arguments, logs=logs, folder=work, environ=environ)
    command.wait_for(lambda: "\n" in command.printed)
    assert command.printed.splitlines()[0] == "output.webp"
    command.send_signal(signal.SIGINT)
    assert command.wait() == 130
    made = names_in(work)
    assert "output.webp" in made
    assert all((work / name).stat().st_size for name in made)
    assert "output.sheet.webp" not in made
    assert [path for path in temporary.rglob("*") if path.is_file()] == []


def test_dream_render_counts_too(monkeypatch, tmp_path, capfd):
    class Keeper:
        def __init__(self):
            self.seeds = []

        def generate(self, request, dev_key):
            self.seeds.append(request.seed)
            return Result(picture("RGB"), {}, {"seed": request.seed})

    keeper = Keeper()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAM_RENDER_DEV_KEYS", "right")
    monkeypatch.setattr(DreamRender, "load", lambda *_: keeper)
    options = ["dev_key=right", "model=miniature", "prompt=a shoe", "width=512", "height=512"]
    arguments = [part for each in [*options, "seed=3"] for part in ("-i", each)]
    arguments += ["-p", "predict.py:DreamRenderPredictor", "--count", "2", "--contact-sheet"]
    assert predict.main(arguments) == 0
    assert keeper.seeds == [3, 4]
    assert names_in(tmp_path) == ["output-2.png", "output.png", "output.sheet.webp"]
