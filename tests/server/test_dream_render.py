"""The documented request by curl, through the form endpoint, to the real Cog server and back."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from dream_o.dream_render.form_api import ENDPOINT, create_app
from dream_o.images.writing import read_metadata
from tests import ROOT
from tests.dream_render.form_server import DOCUMENT, serving
from tests.server.client import CogServer, free_port, until

KEY = "k3y-0f-the-server-tests"
OTHER_KEY = "4n0ther-k3y-of-them"
WRONG_KEY = "wr0ng-k3y-same-len-1234"

SMALL = {
    "dev_key": KEY,
    "model": "miniature",
    "prompt": "shoe",
    "width": "64",
    "height": "64",
    "seed": "7",
    "steps": "2",
}


class Endpoint:
    """`dream-o render form-api` in a process of its own."""

    def __init__(self, target: str, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}{ENDPOINT}"
        self.log = folder / "form.log"
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        environ.pop("DREAM_RENDER_DEV_KEYS", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dream_o", "render", "form-api"),
                    *("--target", target, "--port", str(port)),
                ],
                stdout=log,
                stderr=log,
                env=environ,
            )

        def answers() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(self.url, trust_env=False).status_code == 405
            return False

        until(answers, "the form endpoint to answer")

    def post(self, **changes: str) -> httpx.Response:
        return httpx.post(self.url, data=SMALL | changes, timeout=120, trust_env=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    folder = tmp_path_factory.mktemp("dream-render")
    environ = {"DREAM_RENDER_DEV_KEYS": f"{OTHER_KEY}, {KEY}", "OMP_NUM_THREADS": "1"}
    with CogServer(folder, "-p", "predict.py:DreamRenderPredictor", environ=environ) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def endpoint(server: CogServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    endpoint = Endpoint(server.url, tmp_path_factory.mktemp("form"))
    yield endpoint
    endpoint.process.kill()
    endpoint.process.wait()


def picture(endpoint: Endpoint, server: CogServer, **changes: str) -> Image.Image:
    server.idle()  # the server answers a moment before it takes the next request
    response = endpoint.post(**changes)
    assert response.status_code == 200, response.text
    return Image.open(io.BytesIO(response.content))


def test_the_documented_curl_request(endpoint: Endpoint, server: CogServer, tmp_path: Path) -> None:
    file, headers = tmp_path / "image", tmp_path / "headers"
    server.idle()
    status = subprocess.run(
        f"""curl --silent --output {file} --dump-header {headers} --write-out '%{{http_code}}' \\
--location '{endpoint.url}' \\
--form 'dev_key="{KEY}"' \\
--form 'model="miniature"' \\
--form 'prompt="shoe"' \\
--form 'width="512"' \\
--form 'height="512"' \\
--form 'seed="-1"' \\
--form 'styles="None"' \\
--form 'cfg_scale="7"' \\
--form 'steps="30"' \\
--form 'enable_hr="False"' \\
--form 'negative_prompt=""' \\
--form 'prompt_temp="0.8"' \\
--form 'prompt_top_p="0.9"' \\
--form 'designer="False"' \\
--form 'enhance_prompt="True"'""",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert status == "200", file.read_text()
    with Image.open(file) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (512, 512), "RGB")
    told = dict(line.split(": ", 1) for line in headers.read_text().splitlines() if ": " in line)
    found = read_metadata(file)
    assert told["x-seed"] == str(found["seed"])
    assert told["content-type"] == "image/png"
    assert found["final_prompt"].startswith("shoe, ")


def test_what_the_fields_do_shows_in_the_file(endpoint: Endpoint, server: CogServer) -> None:
    plain = picture(endpoint, server)
    assert (plain.format, plain.mode, plain.size) == ("PNG", "RGB", (64, 64))
    again = picture(endpoint, server)
    assert np.array_equal(np.asarray(again), np.asarray(plain))
    for changed in ({"seed": "8"}, {"styles": "anime"}, {"enhance_prompt": "False"}):
        other = picture(endpoint, server, **changed)
        assert not np.array_equal(np.asarray(other), np.asarray(plain)), changed
    assert picture(endpoint, server, width="72", height="80").size == (72, 80)
    assert picture(endpoint, server, enable_hr="True").size == (128, 128)
    assert picture(endpoint, server, designer="True").mode == "RGBA"
    assert picture(endpoint, server, output_format="webp").format == "WEBP"
    jpg = picture(endpoint, server, output_format="jpg", designer="True")
    assert (jpg.format, jpg.mode) == ("JPEG", "RGB")


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"dev_key": WRONG_KEY}, 401, "dev_key: not recognised"),
        ({"dev_key": ""}, 401, "dev_key: not recognised"),
        ({"dev_key": WRONG_KEY, "width": "513", "model": "nope"}, 401, "dev_key: not recognised"),
        ({"width": "513"}, 422, "width: 513 is not a multiple of 8; the nearest allowed"),
        ({"model": "miniatur"}, 422, "model: 'miniatur' is not known; the nearest are miniature"),
        ({"styles": "animee"}, 422, "styles: 'animee' is not known; the nearest are anime"),
        ({"prompt": " "}, 422, "prompt: is empty"),
        ({"model": "realisticVisionV60B1_v51VAE"}, 422, "model: realisticVisionV60B1_v51VAE "),
        ({"prompt_temp": "9"}, 422, "prompt_temp: 9"),
    ],
)
def test_what_is_refused(
    endpoint: Endpoint, server: CogServer, changes: dict[str, str], status: int, error: str
) -> None:
    server.idle()
    response = endpoint.post(**changes)
    assert (response.status_code, response.json()["error"][: len(error)]) == (status, error)
    assert "/" not in response.json()["error"]


def test_while_the_server_is_busy_the_answer_is_503(endpoint: Endpoint, server: CogServer) -> None:
    server.idle()
    inputs: dict[str, Any] = {
        "dev_key": KEY,
        "model": "miniature",
        "prompt": "shoe",
        "width": 512,
        "height": 512,
        "steps": 150,
    }
    path = "/predictions/a-long-one"
    asynchronous = {"Prefer": "respond-async"}
    assert server.call("PUT", path, {"input": inputs}, asynchronous).status == 202
    response = endpoint.post()
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert "busy" in response.json()["error"]
    server.call("POST", f"{path}/cancel")
    assert picture(endpoint, server).size == (64, 64)


def test_a_server_whose_setup_failed_is_not_called_busy(tmp_path: Path) -> None:
    """The form endpoint runs in this process."""
    arguments = ("-p", "tests/server/failing_predictor.py:FailingPredictor")
    with CogServer(tmp_path, *arguments) as broken:

        def failed() -> bool:
            assert broken.process.poll() is None, broken.log.read_text()
            with contextlib.suppress(OSError):
                return bool(broken.call("GET", "/health-check").body["status"] == "SETUP_FAILED")
            return False

        until(failed, "the setup to fail")
        with serving(create_app(broken.url, DOCUMENT)) as url:
            response = httpx.post(f"{url}{ENDPOINT}", data=SMALL, timeout=120, trust_env=False)
    assert (response.status_code, list(response.json())) == (502, ["error"])
    assert "could not start" in response.json()["error"]


def test_a_client_that_hangs_up_ends_the_prediction(endpoint: Endpoint, server: CogServer) -> None:
    server.idle()
    before = server.log.read_text()
    long = SMALL | {"width": "512", "height": "512", "steps": "150"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(endpoint.url, data=long, timeout=1.5, trust_env=False)
    until(lambda: '"status": 499' in endpoint.log.read_text(), "the endpoint to notice")
    server.idle()
    said = server.log.read_text().removeprefix(before)
    assert "cancel" in said.lower()
    assert " 150/150 " not in said


def test_after_50_requests_no_key_is_left_anywhere(
    endpoint: Endpoint, server: CogServer, tmp_path: Path
) -> None:
    said = b""
    for number in range(50):
        server.idle()
        key = (KEY, WRONG_KEY, OTHER_KEY)[number % 3]
        if number % 2:
            response = endpoint.post(
                dev_key=key, steps="1", output_format=("png", "webp", "jpg")[number % 3]
            )
            said += response.content + repr(response.headers).encode()
        else:
            inputs = SMALL | {"width": 64, "height": 64, "seed": number, "steps": 1, "dev_key": key}
            answer = server.call("POST", "/predictions", {"input": inputs})
            assert answer.body["status"] == ("failed" if key == WRONG_KEY else "succeeded")
            said += repr(answer).encode()
    assert said.count(b"not recognised") == 17
    said += server.log.read_bytes() + endpoint.log.read_bytes()
    for path in server.temporary_files():
        said += path.read_bytes()
    assert b"seed: " in said
    assert b'"width": 64' in said
    for key in (KEY, OTHER_KEY, WRONG_KEY):
        assert key.encode() not in said
