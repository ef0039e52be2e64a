"""script/predict: inputs, errors, interruption."""

import re
import signal
from pathlib import Path

import pytest

from dream_o.cli import predict
from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.keys import hash_key
from dream_o.server import inputs
from dream_o.service.generator import DreamO, Result
from dream_o.service.settings import Settings
from tests.forked import Forked
from tests.predicting import names_in
from tests.requests_table import REFUSED, SMALL, encoded, picture
from tests.server.client import Receiver, data_url, environment

NAMES = (
    "prompt, ref_image1, ref_task1, ref_image2, ref_task2, width, height, num_steps, guidance, "
    "seed, ref_res, neg_prompt, neg_guidance, true_cfg, cfg_start_step, cfg_end_step, "
    "first_step_guidance, output_format, output_quality"
)


def test_inputs_get_their_types_and_the_others_their_defaults(recorder):
    arguments = ["prompt=a=b, @c", "width=784", "guidance=4", "seed=-1", "neg_prompt="]
    assert predict.main([part for each in arguments for part in ("-i", each)]) == 0
    request = recorder.request
    assert (request.prompt, request.neg_prompt) == ("a=b, @c", "")
    assert (request.width, request.height, request.seed) == (784, 1024, -1)
    assert request.guidance == 4.0
    assert isinstance(request.guidance, float)
    assert [each.image for each in request.references] == [None, None]


def test_files_come_from_disk_from_the_web_and_from_a_data_url(recorder, tmp_path):
    disk, network, inline = (encoded(picture(size=(width, 48))) for width in (64, 65, 66))
    (tmp_path / "photo.jpg").write_bytes(disk)
    with Receiver({"/photo.png": network}) as web:
        files = ["-iref_image1=@photo.jpg", f"-iref_image2={web.url}/photo.png"]
        assert predict.main(["-i", "prompt=x", *files]) == 0
    assert recorder.uploads == [disk, network]
    assert predict.main(["-i", "prompt=x", "-i", f"ref_image1={data_url(inline)}"]) == 0
    assert recorder.uploads == [inline, None]
    assert (tmp_path / "photo.jpg").read_bytes() == disk


WRONG = [
    ([], "prompt: is required"),
    (["-i", "prompt"], "-i prompt: give name=value"),
    (["-i", "prompt=a", "-i", "prompt=b"], "prompt: is given twice; give it once"),
    (
        ["-i", "widht=768"],
        f"widht: there is no such input; did you mean width? the inputs are {NAMES}",
    ),
    (
        ["-i", "ref_image=@a.png"],
        f"ref_image: there is no such input; did you mean ref_image1? the inputs are {NAMES}",
    ),
    (
        ["-i", "prompt=a", "-o", "a.gif"],
        "-o a.gif: .gif is not a format that can be written; use .webp, .jpg or .png",
    ),
    (
        ["-i", "prompt=a", "-o", "a.png", "-i", "output_format=webp"],
        "-o a.png: the suffix contradicts output_format=webp; change one of them",
    ),
    (
        ["-i", "prompt=a", "-o", "/proc/x.png"],
        "-o /proc/x.png: the folder cannot be written to (No such file or directory); "
        "name another folder",
    ),
    (
        ["-i", "prompt=a", "--preview", "-o", "-"],
        "--preview names its file after the image; give -o FILE",
    ),
    (["-i", "zzz=1"], f"zzz: there is no such input; the inputs are {NAMES}"),
    (["-i", "prompt=a", "-i", "width=wide"], "width: 'wide' is not a whole number"),
    (["-i", "prompt=a", "-i", "width=768.5"], "width: '768.5' is not a whole number"),
    (["-i", "prompt=a", "-i", "width=2048"], "width: 2048 is out of range; use 768 to 1024"),
    (["-i", "prompt=a", "-i", "guidance=nan"], "guidance: 'nan' is not a number"),
    (["-i", "prompt=a", "-i", "true_cfg=9"], "true_cfg: 9.0 is out of range; use 1 to 5"),
    (
        ["-i", "prompt=a", "-i", "ref_task2=face"],
        "ref_task2: 'face' is not allowed; use ip, id or style",
    ),
    (
        ["-i", "prompt=a", "-i", "ref_image1=@absent.png"],
        "ref_image1: there is no file absent.png",
    ),
    (
        ["-i", "prompt=a", "-i", "ref_image1=/etc/passwd"],
        "ref_image1: give a file as ref_image1=@FILE, or an http(s) URL",
    ),
    (
        ["-i", "prompt=a", "-i", "ref_image2=file:///etc/passwd"],
        "ref_image2: give a file as ref_image2=@FILE, or an http(s) URL",
    ),
    (
        ["-i", "prompt=a", "-i", "ref_image1=data:image/png;base64,A"],
        "ref_image1: this is not a base64 data URL",
    ),
    (
        ["-i", "prompt=a", "-i", "ref_image1=http://127.0.0.1:1/photo.png"],
        "ref_image1: the download failed: Connection refused",
    ),
    (
        ["-i", "prompt=a", "-o", "absent/a.png"],
        "-o absent/a.png: the folder absent does not exist; create it or name another",
    ),
    (["-i", "prompt=a", "-o", "."], "-o .: this is not a regular file; name one"),
    (["-i", "prompt=a", "-o", "/dev/null"], "-o /dev/null: this is not a regular file; name one"),
    (["a", "hill"], "unrecognized arguments: a hill; --help lists the options"),
    (
        ["-p", "absent.py:P"],
        "-p absent.py:P: the file absent.py does not exist; give FILE:CLASS, such as "
        "predict.py:Predictor",
    ),
]


@pytest.mark.parametrize(("arguments", "error"), WRONG, ids=range(len(WRONG)))
def test_a_mistake_is_one_line_before_anything_is_loaded(nothing_loads, arguments, error, capfd):
    assert predict.main(arguments) == 1
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"error: {error}\n")
    assert names_in(nothing_loads) == []


def test_a_download_that_is_too_large_or_not_found_is_refused(nothing_loads, monkeypatch, capsys):
    monkeypatch.setattr(inputs, "MAX_DOWNLOAD_BYTES", 2_000_000)
    with Receiver({"/large.png": bytes(2_000_001)}) as web:
        for name in ("large", "absent"):
            arguments = ["-i", "prompt=a", "-i", f"ref_image1={web.url}/{name}.png"]
            assert predict.main(arguments) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: ref_image1: the download is larger than 2 MB",
        "error: ref_image1: the download failed: the server answered 404 Not Found",
    ]


def test_a_redirect_to_a_local_file_is_not_followed(nothing_loads, capsys):
    with Receiver(redirects={"/photo.png": "file:///etc/passwd"}) as web:
        assert predict.main(["-i", "prompt=a", "-i", f"ref_image1={web.url}/photo.png"]) == 1
    assert capsys.readouterr().err.startswith("error: ref_image1: the download failed: ")


@pytest.fixture(scope="module")
def quick(quick_bundle):
    dream_o = DreamO.load(Settings(device="cpu", references="offline"), quick_bundle)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_what_the_server_refuses_is_refused_in_the_same_words(
    row, quick, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(DreamO, "load", lambda *_: quick)
    monkeypatch.chdir(tmp_path)
    arguments = []
    for name, value in ({"prompt": "a hill"} | SMALL | row.inputs).items():
        if isinstance(value, bytes):
            Path(name).write_bytes(value)
        arguments += ["-i", f"{name}=@{name}" if isinstance(value, bytes) else f"{name}={value}"]
    assert predict.main([*arguments, "-o", "image.png"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"error: {row.error}"
    assert "Traceback" not in err
    assert not Path("image.png").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_nothing(quick_bundle, tmp_path, number, status):
    inputs = ["-iprompt=a hill", "-inum_steps=30", "-iwidth=768", "-iheight=768"]
    logs, work = tmp_path / "logs", tmp_path / "work"
    logs.mkdir()
    work.mkdir()
    environ = environment(work, quick_bundle)
    command = Forked(predict.main, inputs, logs=logs, folder=work, environ=environ)
    command.wait_for(lambda: re.search(r" [1-9]\d*/30 ", command.told))
    command.send_signal(number)
    assert command.wait() == status
    assert command.printed == ""
    assert "Traceback" not in command.told
    assert [path for path in work.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_what_needs_no_model_is_refused_before_one_is_loaded(
    row, nothing_loads, monkeypatch, capfd
):
    monkeypatch.setenv("DREAM_O_REFERENCES", "offline")
    arguments = []
    for name, value in ({"prompt": "a hill"} | SMALL | row.inputs).items():
        if isinstance(value, bytes):
            Path(name).write_bytes(value)
        arguments += ["-i", f"{name}=@{name}" if isinstance(value, bytes) else f"{name}={value}"]
    assert predict.main(arguments) == 1
    assert capfd.readouterr() == ("", f"error: {row.error}\n")


RENDER = ["-p", "predict.py:DreamRenderPredictor", "-i", "model=miniature", "-i", "prompt=a shoe"]

RENDER_SIZE = ["-i", "width=512", "-i", "height=512"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-i", "dev_key=wrong"], "dev_key: not recognised"),
        (["-i", "dev_key=@env:ABSENT"], "dev_key: the environment variable ABSENT is not set"),
        (["-i", "dev_key=@absent"], "dev_key: the file absent cannot be read"),
        (
            ["-i", "dev_key=right", "-i", "styles=nonsense"],
            "styles: 'nonsense' is not known; ",
        ),
    ],
)
def test_dream_renders_mistakes_are_told_before_anything_is_loaded(
    arguments, error, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAM_RENDER_DEV_KEYS", "right")
    monkeypatch.delattr(DreamRender, "load")
    assert predict.main([*RENDER, *RENDER_SIZE, *arguments]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"error: {error}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("given", ["right", "hashed", "@env:THE_KEY", "@key.txt"])
def test_a_key_comes_from_the_environment_or_a_file(given, tmp_path, monkeypatch):
    class Keeper:
        def generate(self, request, dev_key):
            self.key = dev_key
            return Result(picture("RGB"), {}, {"seed": 1})

    keeper = Keeper()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DREAM_RENDER_DEV_KEYS", "right")
    monkeypatch.setenv("DREAM_RENDER_DEV_KEY_HASHES", hash_key("hashed"))
    monkeypatch.setenv("THE_KEY", "right")
    (tmp_path / "key.txt").write_text("right\n")
    monkeypatch.setattr(DreamRender, "load", lambda *_: keeper)
    assert predict.main([*RENDER, *RENDER_SIZE, "-i", f"dev_key={given}"]) == 0
    assert keeper.key == ("hashed" if given == "hashed" else "right")


def test_help_shows_every_input_of_the_predictor(capsys):
    assert predict.main(["--help"]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("inputs, each given as -i NAME=VALUE:") :].splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[2:] if line[2] != " "}
    assert list(rows) == NAMES.split(", ")
    assert rows["prompt"][:2] == ["string", "required"]
    assert rows["ref_image1"][:2] == ["file", "none"]
    assert rows["width"][:5] == ["integer", "1024", "768", "to", "1024"]
    assert rows["output_format"][:5] == ["string", "webp", "webp,", "jpg,", "png"]
    assert rows["neg_prompt"][:4] == ["string", '""', "Negative", "prompt"]

    assert predict.main(["-p", "predict.py:DreamRenderPredictor", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "  dev_key          secret   required" in shown


def test_a_negative_prompt_without_effect_is_warned_of_once(quick, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(DreamO, "load", lambda *_: quick)
    monkeypatch.chdir(tmp_path)
    arguments = [f"-i{name}={value}" for name, value in ({"prompt": "a hill"} | SMALL).items()]
    assert predict.main([*arguments, "-i", "neg_prompt=red"]) == 0
    warning = (
        "neg_prompt has no effect: it needs true_cfg above 1 and cfg_end_step above "
        "cfg_start_step; try true_cfg=2 and cfg_end_step=8"
    )
    assert capfd.readouterr().err.count(warning) == 1
    effective = ["-i", "neg_prompt=red", "-i", "true_cfg=2", "-i", "cfg_end_step=8"]
    assert predict.main([*arguments, *effective]) == 0
    assert "no effect" not in capfd.readouterr().err
