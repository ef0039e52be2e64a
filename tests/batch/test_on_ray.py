"""A batch on Ray: two actors on this machine, which fail and die while they work."""

import re
import time
from urllib.request import urlopen

import pytest
import ray
from PIL import Image

from dream_o.batch.on_ray import OnRay, Pool
from dream_o.batch.worker import Load
from dream_o.errors import UserError
from dream_o.images.writing import write_image
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from tests.batch.conftest import Tried, numbered
from tests.batch.stub import StubLoad, calls

SECONDS = 60  # until a metric is there


@pytest.fixture(scope="module")
def on_ray():
    """`on_ray(least, most)`: an engine in the one Ray session of these tests."""
    ray.init(
        "local",
        num_cpus=2,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield lambda least, most: lambda job: OnRay(job, Pool(None, least, most, "cpu", "offline"))
    ray.shutdown()


@pytest.fixture(scope="module")
def troubled(on_ray, tmp_path_factory):
    """A batch with everything that goes wrong, on one to two actors, and its summary."""
    tried = Tried(tmp_path_factory.mktemp("troubled"))
    tried.load = StubLoad(tried.folder, seconds=0.1)
    commands = ["first: fail", "always: fail", "always: refuse", "first: die", "always: die"]
    commands += ["first: lose the device"]
    rows = [
        {"name": each.replace(": ", "-").replace(" ", "-"), "prompt": each} for each in commands
    ]
    requests = tried.requests(*numbered(60), *rows)
    return tried, requests, tried.run(requests, on_ray(1, 2))


def test_every_request_has_one_result_whatever_fails(troubled):
    tried, _, summary = troubled
    assert (summary.rows, summary.failed) == (66, 3)
    results = tried.results()
    assert {name: row["error"] for name, row in results.items() if row["status"] == "failed"} == {
        "always-fail": "RuntimeError: the device said no",
        "always-refuse": "ref_image1: no face found",
        "always-die": "the process that made this image ended twice without an answer; use a "
        "smaller width, height or ref_res, or a device with more memory",
    }
    assert len(results) == 66
    assert len(tried.images()) == 63
    for image in tried.images():
        Image.open(tried.output / image).load()


def test_a_failing_request_is_tried_on_another_actor(troubled):
    tried, *_ = troubled
    actors = {
        command: [actor for actor, prompt in calls(tried.folder) if prompt == command]
        for command in ("first: fail", "always: fail", "always: die", "first: die")
    }
    assert all(len(set(each)) == len(each) == 2 for each in actors.values()), actors


def test_an_actor_that_dies_loses_no_other_image(troubled):
    tried, *_ = troubled
    assert sorted(each for each in tried.prompts if each.startswith("hill")) == sorted(
        f"hill {number}" for number in range(60)
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


def test_the_same_command_again_makes_what_failed_and_nothing_else(troubled, on_ray):
    tried, *_ = troubled
    begun = len(tried.prompts)
    keep = [row for row in tried.results().values() if row["status"] == "succeeded"]
    rows = [{"name": "always-refuse", "prompt": "always: refuse"}, *numbered(60)]
    summary = tried.run(tried.requests(*rows), on_ray(1, 1))
    assert (summary.skipped, summary.failed) == (60, 1)
    assert tried.prompts[begun:] == ["always: refuse"]
    assert {row["name"] for row in keep} <= set(tried.results())


def test_prometheus_gets_images_by_status_and_seconds_by_stage(troubled):
    port = ray.nodes()[0]["MetricsExportPort"]
    end = time.monotonic() + SECONDS
    found = set()
    while len(found) < 4 and time.monotonic() < end:
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


def test_images_are_those_of_single_requests_to_the_byte(on_ray, fused, tmp_path, monkeypatch):
    bundle = fused("v1.1", True)
    monkeypatch.setenv("DREAM_O_WEIGHTS", str(bundle))
    settings = Settings(weights=str(bundle), device="cpu", speed="exact", references="offline")
    tried = Tried(tmp_path)
    tried.load = Load(settings)
    Image.linear_gradient("L").resize((120, 90)).convert("RGB").save(tmp_path / "hill.png")
    small = {"width": 768, "height": 768, "num_steps": 8, "ref_res": 256}
    rows = [
        {"name": "plain", "prompt": "a hill", "seed": 5, "output_format": "png"},
        {"name": "two", "prompt": "a hill", "seed": 6, "ref_image2": "hill.png"},
    ]
    requests = tried.requests({"common": small}, *rows)
    assert tried.run(requests, on_ray(2, 2)).failed == 0

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
