"""script/serve: what is served, by whom, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from dream_o.errors import UserError
from dream_o.server import serve
from tests import ROOT
from tests.requests_table import encoded, picture
from tests.server.client import CogServer, free_port, steps_done, until

CONTRACT = ROOT / "tests" / "data" / "contract"

SLOW = """
import time
from cog import BasePredictor, Input, Path
from dream_o.server.worker_files import start_worker

class Slow(BasePredictor):
    def setup(self) -> None:
        start_worker()
        print("setting up", flush=True)
        time.sleep({seconds})

    def predict(self, count: int = Input(description="How many", default=1, ge=0)) -> Path:
        time.sleep(30)
"""


def slow_predictor(folder: Path, seconds: float) -> str:
    path = folder / "slow.py"
    path.write_text(SLOW.format(seconds=seconds))
    return f"{path}:Slow"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_served_document_is_the_published_one(server):
    served = server.call("GET", "/openapi.json").body
    assert served == json.loads((CONTRACT / "dream-o.openapi.json").read_text())


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A server of another predictor that other machines reach."""
    folder = tmp_path_factory.mktemp("other")
    arguments = ("-p", slow_predictor(folder, 0), "--host", "0.0.0.0")
    with CogServer(folder, *arguments) as server:
        yield server.ready()


def test_each_predictor_is_served_with_its_own_document(server, other):
    inputs = other.call("GET", "/openapi.json").body["components"]["schemas"]["Input"]
    assert list(inputs["properties"]) == ["count"]
    assert other.call("POST", "/predictions", {"input": {"count": -1}}).status == 422
    again = server.call("GET", "/openapi.json").body["components"]["schemas"]["Input"]
    assert "prompt" in again["properties"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_still_setting_up_ends_with_all_its_processes(tmp_path, number):
    with CogServer(tmp_path, "-p", slow_predictor(tmp_path, 100)) as server:
        until(lambda: "setting up" in server.log.read_text(), "the worker")
        worker = server.worker()
        server.process.send_signal(number)
        server.process.wait()
        assert until(lambda: not alive(worker), "the worker to end")


def test_a_busy_port_is_one_sentence(server):
    result = subprocess.run(
        [ROOT / "script" / "serve", "--port", str(server.port)], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr == f"error: port {server.port} is in use; choose another with --port\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--port", "0"], "--port 0 is out of range; use 1 to 65535"),
        (["--port", "x"], "argument --port: invalid int value: 'x'; --help lists the options"),
        (
            ["--host", "256.0.0.1"],
            "--host 256.0.0.1: the address does not exist; use one of this machine's",
        ),
        (
            ["-p", "absent.py:Predictor"],
            "-p absent.py:Predictor: the file absent.py does not exist; give FILE:CLASS, such as "
            "predict.py:Predictor",
        ),
        (["-p", "predict.py:Absent"], "-p predict.py:Absent: the file has no class Absent"),
        (["-p", "predict.py"], "-p predict.py: give FILE:CLASS, such as predict.py:Predictor"),
        (["--prot", "5"], "unrecognized arguments: --prot 5; --help lists the options"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments, error, capsys):
    assert serve.main(arguments) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_wrong_setting_is_told_before_the_server_starts(monkeypatch, capsys):
    monkeypatch.setenv("DREAM_O_DEVICE", "gpu")
    assert serve.main(["--port", str(free_port())]) == 1
    assert capsys.readouterr().err.startswith("error: DREAM_O_DEVICE='gpu' is not allowed; use ")


def test_a_document_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "HOME", tmp_path)
    (tmp_path / ".cog").write_text("in the way")
    with pytest.raises(UserError, match=r"^\.cog/serve/\.cog/openapi_schema\.json cannot be"):
        serve.write_document({}, tmp_path / ".cog" / "serve")


def test_a_rewritten_document_leaves_only_itself(tmp_path):
    for number in (1, 2):
        serve.write_document({"number": number}, tmp_path)
    (written,) = (tmp_path / ".cog").iterdir()
    assert json.loads(written.read_text()) == {"number": 2}


def test_twenty_requests_leave_no_file_and_no_memory_behind(server):
    """Five refused, three cancelled, twelve images; the first five requests are the warm-up."""
    good = {"ref_image1": encoded(picture(size=(200, 200))), "ref_task1": "style"}

    def image() -> None:
        assert server.predict(**good)["status"] == "succeeded"

    def refused() -> None:
        assert server.predict(**good | {"ref_image2": b"no image"})["status"] == "failed"

    def cancelled() -> None:
        path = server.start(**good)
        until(lambda: steps_done(server.state(path)["logs"]) >= 1, "a step")
        assert server.call("POST", f"{path}/cancel").status == 200
        server.idle()

    requests = [image, refused, image, cancelled, image]
    requests += [image, refused, image, cancelled, image] * 2 + [image, refused, refused]
    requests += [image, image]
    assert [requests.count(each) for each in (image, refused, cancelled)] == [12, 5, 3]

    def resident() -> list[int]:
        held = []
        for request in requests:
            request()
            held.append(server.resident_kilobytes())
        return held

    first = resident()
    until(lambda: not server.temporary_files(), "the last output file to go")
    # The allocator gives memory back when it likes, and the level goes up and down by a tenth; what
    # is left behind by each request raises it in every round.
    if median(first[-6:]) > 1.05 * median(first[4:10]):
        second = resident()
        assert median(second[-6:]) <= 1.05 * median(first[-6:]), (first, second)


def test_the_servers_log_holds_no_traceback_and_no_deprecation(server):
    server.predict()
    log = server.log.read_text()
    assert not re.search("Traceback|DeprecationWarning", log)


def test_importing_the_predictor_does_not_load_torch():
    code = "import sys, predict; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_an_address_that_others_reach_is_told_from_the_loopback(host, local):
    assert serve.is_loopback(host) == local


def test_a_server_that_others_reach_says_that_it_asks_for_no_key(server, other):
    assert "the server asks for no key" in other.log.read_text()
    assert "the server asks for no key" not in server.log.read_text()
