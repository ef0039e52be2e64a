"""script/predict: inputs, errors, the output file, interruption."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dream_o.cli import predict
from dream_o.images.writing import read_metadata
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.server import inputs
from dream_o.service.generator import DreamO, Result
from dream_o.service.settings import Settings
from tests.requests_table import REFUSED, SMALL, picture
from tests.server.client import Receiver, data_url, environment

NAMES = (
    "prompt, ref_image1, ref_task1, ref_image2, ref_task2, width, height, num_steps, guidance, "
    "seed, ref_res, neg_prompt, neg_guidance, true_cfg, cfg_start_step, cfg_end_step, "
    "first_step_guidance, output_format, output_quality"
)


class Recorder:
    """In the place of a loaded bundle: keeps the request and its uploads, gives a grey image."""

    def generate(self, request):
        print("a line on standard output")
        self.request = request
        uploads = [each.image for each in request.references]
        self.uploads = [each and Path(each).read_bytes() for each in uploads]
        return Result(picture("RGB"), {"prompt": request.prompt}, {"seed": 1})


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    """script/predict in this process and in an empty folder, without a model."""
    recorder = Recorder()
    monkeypatch.setattr(DreamO, "load", lambda *_: recorder)
    monkeypatch.chdir(tmp_path)
    return recorder


@pytest.fixture
def nothing_loads(monkeypatch, tmp_path):
    """A folder in which script/predict must be done before a model is touched."""
    monkeypatch.delattr(DreamO, "load")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_output_path_is_alone_on_standard_output(recorder, tmp_path, capfd):
    assert predict.main(["-i", "prompt=a hill"]) == 0
    assert capfd.readouterr().out == "output.webp\n"
    assert names_in(tmp_path) == ["output.webp"]
    assert read_metadata("output.webp")["prompt"] == "a hill"


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
    (tmp_path / "photo.jpg").write_bytes(b"from disk")
    with Receiver({"/photo.png": b"from the web"}) as web:
        files = ["-iref_image1=@photo.jpg", f"-iref_image2={web.url}/photo.png"]
        assert predict.main(["-i", "prompt=x", *files]) == 0
    assert recorder.uploads == [b"from disk", b"from the web"]
    assert predict.main(["-i", "prompt=x", "-i", f"ref_image1={data_url(b'inline')}"]) == 0
    assert recorder.uploads == [b"inline", None]
    assert (tmp_path / "photo.jpg").read_bytes() == b"from disk"


def test_an_output_is_replaced_and_nothing_else_is_left(recorder, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "image.bin"
    target.write_bytes(b"older")
    assert predict.main(["-i", "prompt=x", "-o", str(target)]) == 0
    assert Image.open(target).format == "WEBP"
    assert names_in(tmp_path / "there") == ["image.bin"]
    assert names_in(temporary) == []


@pytest.mark.parametrize(
    ("file", "given", "kind", "warned"),
    [
        ("a.png", [], "PNG", False),
        ("a.JPEG", [], "JPEG", False),
        ("a.webp", [], "WEBP", False),
        ("a.out", [], "WEBP", False),
        ("a.png", ["-i", "output_format=png"], "PNG", False),
        ("a.png", ["-i", "output_format=jpg"], "JPEG", True),
    ],
)
def test_the_suffix_sets_the_format_unless_an_input_does(
    recorder, file, given, kind, warned, capsys
):
    assert predict.main(["-i", "prompt=x", "-o", file, *given]) == 0
    assert Image.open(file).format == kind
    warning = "warning: a.png will hold a jpg image"
    assert (warning in capsys.readouterr().err) == warned


WRONG = [
    ([], "prompt: is required"),
    (["-i", "prompt"], "-i prompt: give name=value"),
    (["-i", "prompt=a", "-i", "prompt=b"], "prompt: is given twice; give it once"),
    (
        ["-i", "widht=768"],
        f"widht: there is no such input; did you mean width? the inputs are {NAMES}",
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
    (["-i", "prompt=a", "-o", "absent/a.png"], "-o absent/a.png: there is no folder absent"),
    (["-i", "prompt=a", "-o", "."], "-o .: this is not a plain file; name one"),
    (["-i", "prompt=a", "-o", "/dev/null"], "-o /dev/null: this is not a plain file; name one"),
    (["a", "hill"], "unrecognized arguments: a hill; --help shows what there is"),
    (["-p", "absent.py:P"], "-p absent.py:P: there is no file absent.py"),
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


@pytest.fixture(scope="module")
def miniature():
    dream_o = DreamO.load(Settings(device="cpu", references="offline"), EMBEDDED_BUNDLE)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.mark.parametrize("row", REFUSED, ids=[row.name for row in REFUSED])
def test_what_the_server_refuses_is_refused_in_the_same_words(
    row, miniature, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(DreamO, "load", lambda *_: miniature)
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
def test_an_interruption_leaves_nothing(fused, tmp_path, number, status):
    process = subprocess.Popen(
        [sys.executable, "-m", "dream_o.cli.predict", "-iprompt=a hill", "-inum_steps=30"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path, fused("v1.1", True)),
    )
    shown = ""
    while "1/30" not in shown:
        shown += process.stderr.read(1)
        assert process.poll() is None, shown
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in shown + err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
