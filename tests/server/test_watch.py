"""A server that can serve no longer ends, and `--restart` starts it again."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from dream_o.server import health, supervisor, watch
from tests import ROOT
from tests.server.client import CogServer, Receiver, free_port, until
from tests.server.test_serve import alive, slow_predictor


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(watch, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(watch, "worker_lives", lambda: True)


def reason(states: list[str], supervised: bool = False) -> tuple[str, list[str]]:
    """Why the server of these states ends, and the states that were not asked for."""
    return watch.reason_to_end("http://x", supervised, lambda _: states.pop(0)), states


def test_a_health_check_must_fail_three_times_in_a_row(at_once):
    states = ["STARTING", "READY", "UNHEALTHY", "UNHEALTHY", "READY", *["UNHEALTHY"] * 3, "READY"]
    said, left = reason(states)
    assert said == "the server's health check failed 3 times in a row (UNHEALTHY)"
    assert left == ["READY"]


def test_a_server_without_a_worker_ends_at_the_first_sign(at_once, monkeypatch):
    monkeypatch.setattr(watch, "worker_lives", lambda: False)
    said, left = reason(["STARTING", "READY", "UNHEALTHY", "READY"])
    assert said == "the server's worker process has died"
    assert left == ["READY"]


def test_a_server_that_does_not_answer_yet_is_not_lost_and_one_that_stopped_answering_is(at_once):
    states = ["NO_SERVER"] * 9 + ["NO_ANSWER"] * 9 + ["READY"] + ["NO_ANSWER"] * 3
    said, left = reason(states)
    assert "(NO_ANSWER)" in said
    assert left == []


def test_a_server_that_was_told_to_end_is_left_to_finish(at_once):
    with pytest.raises(IndexError):
        reason(["READY", "BUSY", *["NO_SERVER"] * 9], supervised=True)


def test_a_failed_setup_ends_a_supervised_server_only(at_once):
    assert reason(["STARTING", "SETUP_FAILED"], supervised=True)[0] == "the server's setup failed"
    with pytest.raises(IndexError):
        reason(["STARTING", *["SETUP_FAILED"] * 9])


def test_a_child_that_has_ended_is_no_worker():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert watch.worker_lives()
    child.kill()
    until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "the child to end")
    others = [each.pid for each in psutil.Process().children() if each.pid != child.pid]
    assert watch.worker_lives() == bool(others)
    child.wait()


@pytest.mark.parametrize(
    ("answer", "serving", "lives"),
    [
        (b'{"status": "READY"}', True, True),
        (b'{"status": "BUSY"}', True, True),
        (b'{"status": "STARTING"}', False, True),
        (b'{"status": "UNHEALTHY"}', False, False),
        (b'{"status": "SETUP_FAILED"}', False, False),
        (b"no JSON", False, False),
    ],
)
def test_the_probes_of_a_container(answer, serving, lives, monkeypatch, capsys):
    with Receiver({"/health-check": answer}) as server:
        monkeypatch.setenv("PORT", server.url.rpartition(":")[2])
        assert health.main([]) == (0 if serving else 1)
        assert health.main(["--alive"]) == (0 if lives else 1)
    monkeypatch.setenv("PORT", str(free_port()))
    assert health.main([]) == health.main(["--alive"]) == 1
    assert "NO_SERVER" in capsys.readouterr().out


def count_to(path, statuses: str) -> list[str]:
    """A command that ends with the next of these statuses each time it runs."""
    code = (
        "import pathlib, sys; path = pathlib.Path(sys.argv[1]);"
        "begun = len(path.read_text()) if path.exists() else 0; path.write_text('x' * (begun + 1));"
        f"sys.exit({statuses}[begun])"
    )
    return [sys.executable, "-c", code, str(path)]


def test_a_command_is_started_again_until_it_ends_well(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    command = count_to(tmp_path / "count", "[75, 1, 0]")
    assert supervisor.keep_running(command, os.environ, tmp_path) == 0
    assert (tmp_path / "count").read_text() == "xxx"
    said = capsys.readouterr().err
    assert "the server ended with status 75; it starts again in 0.01 s" in said
    assert "the server ended with status 1; it starts again in 0.02 s" in said


def test_pauses_grow_up_to_a_bound_and_are_short_again_after_a_long_run(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "MAX_PAUSE_SECONDS", 0.02)
    supervisor.keep_running(count_to(tmp_path / "a", "[1, 1, 1, 0]"), os.environ, tmp_path)
    said = capsys.readouterr().err
    assert [said.count(f"in {pause} s") for pause in ("0.01", "0.02", "0.04")] == [1, 2, 0]
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)
    supervisor.keep_running(count_to(tmp_path / "b", "[1, 1, 0]"), os.environ, tmp_path)
    assert capsys.readouterr().err.count("in 0.01 s") == 2


@contextlib.contextmanager
def restarting_server(folder):
    """`serve --restart` with a predictor whose predictions take 30 s."""
    arguments = ("-p", slow_predictor(folder, 0), "--restart")
    with CogServer(folder, *arguments) as server:
        yield server
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(10)


@pytest.fixture(scope="module")
def restarting(tmp_path_factory):
    """The server that two tests disturb and the third one ends."""
    with restarting_server(tmp_path_factory.mktemp("restarting")) as server:
        yield server


def served_by(server: CogServer) -> psutil.Process | None:
    """The process of the Cog server."""
    children = psutil.Process(server.process.pid).children()
    return children[0] if children else None


def kill_worker(server: psutil.Process) -> None:
    for child in server.children():
        child.kill()


def kill_server(server: psutil.Process) -> None:
    server.kill()


@pytest.mark.parametrize("kill", [kill_worker, kill_server])
def test_a_killed_process_answers_what_was_in_flight_and_is_replaced(restarting, kill):
    restarting.ready()
    first = served_by(restarting)
    assert first is not None
    outcome = []

    def wait_for_the_answer() -> None:
        try:
            answer = restarting.call("POST", "/predictions", {"input": {"count": 1}})
            outcome.append(answer.body["status"])
        except OSError:
            outcome.append("no connection")

    request = threading.Thread(target=wait_for_the_answer)
    request.start()
    until(lambda: restarting.call("GET", "/health-check").body["status"] == "BUSY", "the request")
    begun = time.monotonic()
    kill(first)
    request.join(20)
    assert outcome == (["failed"] if kill is kill_worker else ["no connection"])
    assert time.monotonic() - begun < 20
    until(lambda: (now := served_by(restarting)) and now.pid != first.pid, "another server")
    restarting.ready()
    assert restarting.process.poll() is None


def test_sigterm_ends_a_restarting_server_with_all_its_processes(restarting):
    restarting.ready()
    processes = psutil.Process(restarting.process.pid).children(recursive=True)
    assert len(processes) >= 2
    restarting.process.send_signal(signal.SIGTERM)
    assert restarting.process.wait(60) == 0
    for each in processes:
        until(lambda each=each: not alive(each.pid), "the processes to end")


def test_a_server_whose_supervisor_was_killed_ends(tmp_path):
    with restarting_server(tmp_path) as server:
        server.ready()
        processes = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        server.process.wait()
        for each in processes:
            until(
                lambda each=each: (
                    not psutil.pid_exists(each.pid) or each.status() == psutil.STATUS_ZOMBIE
                ),
                "the processes to end",
            )
        assert list(server.temporary.glob("dream-o-worker-*")) == []


def test_without_restart_a_server_that_lost_its_worker_ends_with_a_status_to_restart_on(tmp_path):
    with CogServer(tmp_path, "-p", slow_predictor(tmp_path, 0)) as server:
        server.ready()
        os.kill(server.worker(), signal.SIGKILL)
        assert server.process.wait(30) == watch.EXIT_STATUS
        log = server.log.read_text()
        assert "error: the server's worker process has died; ending with status 75\n" in log
        assert list(server.temporary.glob("dream-o-worker-*")) == []
        assert "Traceback" not in log


def test_a_failed_setup_stays_to_be_read_without_restart(tmp_path):
    path = tmp_path / "failing.py"
    path.write_text(
        "from cog import BasePredictor, Input, Path\n"
        "class Failing(BasePredictor):\n"
        "    def setup(self) -> None:\n        raise ValueError('no such file')\n"
        "    def predict(self, count: int = Input(default=1)) -> Path:\n        return Path('x')\n"
    )
    with CogServer(tmp_path, "-p", f"{path}:Failing") as server:

        def failed() -> bool:
            with contextlib.suppress(OSError):
                return server.call("GET", "/health-check").body["status"] == "SETUP_FAILED"
            return False

        until(failed, "the setup to fail")
        time.sleep(4 * watch.POLL_SECONDS)
        assert server.process.poll() is None


def test_the_documented_commands_exist():
    for module in ("watch", "health"):
        assert f"dream_o.server.{module}" in (ROOT / "docs" / "deploy.md").read_text()
