"""Batches on one Ray of two machines: actors, machines and commands fail and are killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import psutil
import pytest
import ray
from PIL import Image

from dream_o.batch.on_ray import OnRay
from dream_o.batch.ray_pool import Pool
from dream_o.batch.worker import Load
from dream_o.errors import UserError
from dream_o.images.writing import write_image
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from tests import ROOT
from tests.batch.conftest import Tried, numbered
from tests.batch.stub import StubLoad, calls
from tests.requests_table import encoded

SECONDS = 300  # for what takes seconds on a machine that does nothing else
IDLE_SECONDS = 30  # the longest time in which Ray releases the cores of a batch that has ended
STORE_MB = 100  # of each machine for prepared references and outcomes
ACTORS = 2
# Prepared at 1024 x 1024, a reference has 3 MB.
REFERENCES, BIG = 50, {"ref_task1": "style", "ref_res": 1024}
MOST_AHEAD = 40

# `dream-o batch` with the stub.
COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from dream_o.batch import command, run
from tests.batch.stub import StubLoad

run.Load = lambda settings: StubLoad(Path({folder!r}), seconds=0.2)
sys.exit(command.main(sys.argv[1:]))
"""


def happens(condition, seconds):
    """Whether the condition is met within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def wait_for(condition):
    assert happens(condition, SECONDS)


def alive():
    return [node for node in ray.nodes() if node["Alive"]]


class Machines:
    """One Ray on two machines of one core each: this one, and one that can be lost.

    `OnRay` starts it here as the command does.
    """

    def __init__(self):
        self.second = None
        self.start()

    def start(self):
        """Starts Ray, and begins to start the second machine."""
        small = {
            "num_cpus": 1,
            "object_store_memory": STORE_MB * 2**20,
            "include_dashboard": False,
            "_system_config": {
                "metrics_report_interval_ms": 3000,
                "health_check_period_ms": 500,
                "health_check_failure_threshold": 3,
            },
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray, "init", partial(ray.init, **small))
            self.started = OnRay(None, Pool(None, None, None, "cpu", "offline"))
        self.address = ray.get_runtime_context().gcs_address
        self.start_second()

    def stop(self):
        """Ends Ray on both machines."""
        self.lose_second()
        self.started.close()
        assert not ray.is_initialized()

    def start_second(self):
        """Starts the second machine if it does not run.

        On a busy machine it ends by itself, because Ray allows it 30 seconds for its start.
        """
        if self.second is not None and self.second.poll() is None:
            return
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        options = {
            "address": self.address,
            "num-cpus": 1,
            "object-store-memory": STORE_MB * 2**20,
            "dashboard-agent-listen-port": 0,
            "include-log-monitor": False,  # the first machine's sees the files of both
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        self.second = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def make_two(self):
        """Waits until both machines are there and idle.

        If a batch ends while Ray starts a process for an actor, Ray sometimes keeps the actor's
        cores until the driver ends. Two actors then have no room, so Ray is started again.
        """
        wait_for(self.are_two)
        if not happens(lambda: ray.available_resources().get("CPU") == 2, IDLE_SECONDS):
            self.stop()
            self.start()
            wait_for(self.are_two)

    def are_two(self):
        """Whether both machines are there; starts the second one if it has ended."""
        self.start_second()
        return len(alive()) == 2

    def lose_second(self):
        """Kills everything that runs on the second machine."""
        if self.second is not None and self.second.poll() is None:
            of_machine = psutil.Process(self.second.pid)
            for process in [*of_machine.children(recursive=True), of_machine]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.second.wait()
        self.second = None


@pytest.fixture(scope="module")
def machines():
    """The one Ray of these tests."""
    machines = Machines()
    yield machines
    machines.stop()


@pytest.fixture
def two_machines(machines):
    machines.make_two()
    return machines


@pytest.fixture(scope="module")
def on_ray(machines):
    """`on_ray(least, most)`: an engine."""
    return lambda least, most: lambda job: OnRay(job, Pool(None, least, most, "cpu", "offline"))


class Ahead:
    """A web server of references that notes how many were fetched before their images began."""

    def __init__(self, folder):
        self.folder = folder
        self.fetched = self.most = 0
        content = encoded(Image.new("RGB", (64, 64), "red"))

        class Serving(BaseHTTPRequestHandler):
            def do_GET(handler):
                self.fetched += 1
                begun = sum(prompt.startswith("hill") for _, prompt in calls(folder))
                self.most = max(self.most, self.fetched - begun)
                handler.send_response(200)
                handler.end_headers()
                handler.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Serving)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, number):
        return f"http://127.0.0.1:{self.server.server_port}/{number}.png"


@pytest.fixture(scope="module")
def troubled(on_ray, machines, tmp_path_factory):
    """A batch with everything that goes wrong, on one to two actors, and its summary."""
    machines.make_two()
    tried = Tried(tmp_path_factory.mktemp("troubled"))
    tried.load = StubLoad(tried.folder, seconds=0.2)
    commands = ["first: fail", "always: fail", "always: refuse", "always: die"]
    commands += ["first: lose the device"]
    rows = [
        {"name": each.replace(": ", "-").replace(" ", "-"), "prompt": each} for each in commands
    ]
    requests = tried.requests(*numbered(30), *rows)
    return tried, requests, tried.run(requests, on_ray(1, 2))


def test_every_request_has_one_result_whatever_fails(troubled):
    tried, _, summary = troubled
    assert (summary.rows, summary.failed) == (35, 3)
    results = tried.results()
    assert {name: row["error"] for name, row in results.items() if row["status"] == "failed"} == {
        "always-fail": "RuntimeError: the device said no",
        "always-refuse": "ref_image1: no face found",
        "always-die": "the process that made this image ended twice without an answer; use a "
        "smaller width, height or ref_res, or a device with more memory",
    }
    assert len(results) == 35
    assert len(tried.images()) == 32
    for image in tried.images():
        Image.open(tried.output / image).load()


def test_a_failing_request_is_tried_on_another_actor(troubled):
    tried, *_ = troubled
    actors = {
        command: [actor for actor, prompt in calls(tried.folder) if prompt == command]
        for command in ("first: fail", "always: fail", "always: die", "first: lose the device")
    }
    assert all(len(set(each)) == len(each) == 2 for each in actors.values()), actors


def test_an_actor_that_dies_loses_no_other_image(troubled):
    tried, *_ = troubled
    assert sorted(each for each in tried.prompts if each.startswith("hill")) == sorted(
        f"hill {number}" for number in range(30)
    )


def test_the_pool_grows_while_there_is_work(troubled):
    """Two actors work at the same time: one begins between two images of the other."""
    tried, *_ = troubled
    order = [actor for actor, _ in calls(tried.folder)]
    firsts = {actor: order.index(actor) for actor in order}
    assert any(
        first in order[begun:]
        for second, begun in firsts.items()
        for first in order[:begun]
        if first != second
    )


def test_the_same_command_again_makes_what_failed_and_nothing_else(troubled):
    """The results on the disk decide, so that the second command needs no actor."""
    tried, *_ = troubled
    begun = len(tried.prompts)
    keep = [row for row in tried.results().values() if row["status"] == "succeeded"]
    rows = [{"name": "always-refuse", "prompt": "always: refuse"}, *numbered(30)]
    summary = tried.run(tried.requests(*rows))
    assert (summary.skipped, summary.failed) == (30, 1)
    assert tried.prompts[begun:] == ["always: refuse"]
    assert {row["name"] for row in keep} <= set(tried.results())


def test_prometheus_gets_images_by_status_and_seconds_by_stage(troubled):
    ports = [node["MetricsExportPort"] for node in alive()]
    end = time.monotonic() + SECONDS
    found = set()
    while len(found) < 4 and time.monotonic() < end:
        for port in ports:
            with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                text = answer.read().decode()
            wanted = r'^ray_(dream_o_\w+)\{.*\b(status|stage)="(\w+)".*\} [1-9]'
            found |= set(re.findall(wanted, text, re.MULTILINE))
    assert found == {
        ("dream_o_images_total", "status", "succeeded"),
        ("dream_o_images_total", "status", "failed"),
        ("dream_o_seconds_total", "stage", "denoising"),
        ("dream_o_seconds_total", "stage", "whole"),
    }


def test_images_are_those_of_single_requests_to_the_byte(
    on_ray, quick_bundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("DREAM_O_WEIGHTS", str(quick_bundle))
    settings = Settings(
        weights=str(quick_bundle), device="cpu", speed="exact", references="offline"
    )
    tried = Tried(tmp_path)
    tried.load = Load(settings)
    Image.linear_gradient("L").resize((120, 90)).convert("RGB").save(tmp_path / "hill.png")
    small = {"width": 768, "height": 768, "num_steps": 8, "ref_res": 256}
    rows = [
        {"name": "plain", "prompt": "a hill", "seed": 5, "output_format": "png"},
        {"name": "two", "prompt": "a hill", "seed": 6, "ref_image2": "hill.png"},
    ]
    requests = tried.requests({"common": small}, *rows)
    assert tried.run(requests, on_ray(1, 1)).failed == 0

    dream_o = DreamO.load(settings)
    empty, used = Reference(None, "ip"), Reference(tmp_path / "hill.png", "ip")
    for name, references, seed, suffix in (
        ("plain", (empty, empty), 5, "png"),
        ("two", (empty, used), 6, "webp"),
    ):
        result = dream_o.generate(Request("a hill", references, seed=seed, **small))
        output = {"output_format": suffix, "output_quality": 90}
        single = write_image(result.image, suffix, 90, result.metadata | output, tmp_path)
        assert (tried.output / f"{name}.{suffix}").read_bytes() == single.read_bytes()


def test_a_model_that_no_actor_can_load_is_one_error(on_ray, tmp_path):
    tried = Tried(tmp_path)
    tried.load = StubLoad(tmp_path, error="the bundle is damaged")
    with pytest.raises(UserError, match=r"^the bundle is damaged$"):
        tried.run(tried.requests(*numbered(3)), on_ray(1, 1))


@pytest.fixture(scope="module")
def slow(on_ray, machines, tmp_path_factory):
    """A batch with large references on two actors, one of which cannot load the model."""
    machines.make_two()
    tried = Tried(tmp_path_factory.mktemp("slow"))
    tried.load = StubLoad(tried.folder, seconds=0.1, only_one="this machine's disk is full")
    ahead = Ahead(tried.folder)
    rows = [
        {**row, **BIG, "ref_image1": ahead.url(number)}
        for number, row in enumerate(numbered(REFERENCES))
    ]
    assert tried.run(tried.requests(*rows), on_ray(2, 2)).failed == 0
    ahead.server.shutdown()
    return tried, ahead


def test_an_actor_that_cannot_load_does_not_stop_one_that_can(slow):
    tried, _ = slow
    assert len(tried.images()) == REFERENCES
    assert len({actor for actor, _ in calls(tried.folder)}) == 1
    assert (tried.folder / "refused").exists()


def test_references_are_prepared_only_a_little_ahead_of_slow_actors(slow):
    """What waits in memory is bounded by Ray's store, not by the file of requests."""
    _, ahead = slow
    assert ahead.fetched == REFERENCES
    assert 1 <= ahead.most <= MOST_AHEAD


def check(tried, count, most):
    """Every image is there once and whole, and at most so many were begun."""
    assert len(tried.images()) == count
    for image in tried.images():
        Image.open(tried.output / image).load()
    results = tried.results()
    assert len(results) == count
    assert {row["status"] for row in results.values()} == {"succeeded"}
    assert len(tried.prompts) <= most


def test_a_machine_that_is_lost_loses_the_images_in_flight_alone(tried, two_machines):
    tried.load = StubLoad(tried.folder, seconds=0.2, together=ACTORS)
    requests = tried.requests(*numbered(16))
    pool = Pool(None, ACTORS, ACTORS, "cpu", "offline")

    class Losing(OnRay):
        """Loses the second machine as soon as both have made images."""

        def make(self, tasks, run):
            for outcome in super().make(tasks, run):
                actors = {actor for actor, _ in calls(tried.folder)}
                if two_machines.second is not None and len(actors) == ACTORS:
                    two_machines.lose_second()
                yield outcome

    assert tried.run(requests, lambda job: Losing(job, pool)).failed == 0
    assert two_machines.second is None
    check(tried, 16, 16 + ACTORS)


# The last tests are those after which Ray may hold cores of actors that have ended. For a killed
# command, it does so for three minutes. The machine that is left of the two has room for one actor.
def test_a_command_on_a_cluster_that_is_killed_loses_the_image_in_flight_alone(tried, machines):
    requests = tried.requests(*numbered(20))
    command = [sys.executable, "-c", COMMAND.format(root=str(ROOT), folder=str(tried.folder))]
    command += [requests, "--output", str(tried.output), "--address", machines.address]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(tried.prompts) >= 9 or driver.poll() is not None)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    (actor,) = {actor for actor, _ in calls(tried.folder)}
    wait_for(lambda: not psutil.pid_exists(actor))
    begun = len(tried.prompts)
    assert 9 <= begun < 20
    summary = tried.run(requests)
    assert summary.skipped >= begun - 1
    check(tried, 20, 20 + 1)


def test_an_output_that_the_machines_do_not_share_is_one_error(on_ray, tried, capfd):
    """This process alone sees its memory."""
    with pytest.raises(UserError, match=r"^--output: a machine does not see the plan in the out"):
        tried.run(tried.requests(*numbered(1)), on_ray(1, 1), output="memory://unshared")
    assert "Traceback" not in capfd.readouterr().err
