"""A batch on Ray whose driver is killed, or that loses a machine."""

import os
import signal
import subprocess
import sys
import time

import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from dream_o.batch.on_ray import OnRay, Pool
from tests import ROOT
from tests.batch.conftest import numbered
from tests.batch.stub import StubLoad, calls

ACTORS = 2
SECONDS = 300  # for what takes seconds on a machine that does nothing else

DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from dream_o.batch.on_ray import OnRay, Pool
from dream_o.batch.run import Batch, run_batch
from tests.batch.conftest import Quiet
from tests.batch.stub import StubLoad

folder = Path({folder!r})
batch = Batch(str(folder / "requests.jsonl"), str(folder / "out"))
pool = Pool(None, 2, 2, "cpu", "offline")
run_batch(batch, lambda job: OnRay(job, pool), Quiet(), StubLoad(folder, seconds=0.2))
"""


def wait_for(happened):
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def check(tried, count, most):
    """Every image is there once and whole, and at most so many were begun."""
    assert len(tried.images()) == count
    for image in tried.images():
        Image.open(tried.output / image).load()
    results = tried.results()
    assert len(results) == count
    assert {row["status"] for row in results.values()} == {"succeeded"}
    assert len(tried.prompts) <= most


def test_a_driver_that_is_killed_loses_the_images_in_flight_alone(tried):
    requests = tried.requests(*numbered(80))
    code = DRIVER.format(root=str(ROOT), folder=str(tried.folder))
    driver = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    wait_for(lambda: len(tried.prompts) >= 9 or driver.poll() is not None)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    actors = {actor for actor, _ in calls(tried.folder)}
    wait_for(lambda: not any(os.path.exists(f"/proc/{actor}") for actor in actors))  # noqa: PTH110
    begun = len(tried.prompts)
    assert 9 <= begun < 80
    summary = tried.run(requests)
    assert summary.skipped >= begun - ACTORS
    check(tried, 80, 80 + ACTORS)


@pytest.fixture
def cluster():
    """Two machines of one core each; this process is on the first."""
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": quick})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def test_a_machine_that_is_lost_loses_the_images_in_flight_alone(tried, cluster):
    machines, second = cluster
    tried.load = StubLoad(tried.folder, seconds=0.2)
    requests = tried.requests(*numbered(60))
    pool = Pool(None, 1, 2, "cpu", "offline")

    class Losing(OnRay):
        """Loses the second machine as soon as both have made images."""

        def make(self, tasks, run):
            for outcome in super().make(tasks, run):
                actors = {actor for actor, _ in calls(tried.folder)}
                if second in machines.worker_nodes and len(actors) == ACTORS:
                    machines.remove_node(second, allow_graceful=False)
                yield outcome

    assert tried.run(requests, lambda job: Losing(job, pool)).failed == 0
    assert not machines.worker_nodes
    check(tried, 60, 60 + ACTORS)
