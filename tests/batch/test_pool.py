"""How many actors there are, and what happens if some cannot load the model."""

import json
import time

import pytest
import ray

from dream_o.batch import actor_states
from dream_o.batch.actor_states import FAILED, LOADING, WORKS, ActorState
from dream_o.batch.checking import Checker
from dream_o.batch.ledger import Task
from dream_o.batch.on_ray import UNUSABLE, Actor, OnRay
from dream_o.batch.ray_pool import Pool, Size, limit_to_parts, size_of
from dream_o.batch.reading import Row
from dream_o.batch.storage import Storage
from dream_o.batch.wire import outcomes_of, ready_table
from dream_o.batch.worker import Job, Ready
from dream_o.errors import SettingError, UserError
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, load_predictor


def machines(*resources):
    return [{"Alive": True, "Resources": each} for each in resources]


@pytest.mark.parametrize(
    ("pool", "nodes", "size"),
    [
        # One actor a GPU; cores do not count.
        (Pool(), machines({"GPU": 4, "CPU": 2}, {"GPU": 2, "CPU": 2}), Size(6, 6, True, 3)),
        (Pool(most=3), machines({"GPU": 4, "CPU": 8}), Size(3, 3, True, 3)),
        (Pool(least=1), machines({"GPU": 4, "CPU": 8}), Size(1, 4, True, 4)),
        # A cluster that starts machines with GPUs when there is work.
        (Pool("h:1", most=8, device="cuda"), machines({"CPU": 4}), Size(1, 8, True, 8)),
        # Without GPUs: as many as asked for, if cores are left for the references.
        (Pool(), machines({"CPU": 8}), Size(1, 1, False, 1)),
        (Pool(least=2, most=2), machines({"CPU": 2}), Size(2, 2, False, 2)),
        (Pool(least=4), machines({"CPU": 3}), Size(3, 3, False, 3)),
        (Pool(least=9, most=9), machines({"CPU": 1}, {"CPU": 4}), Size(6, 6, False, 3)),
        (Pool("h:1", least=4, most=9), machines({"CPU": 3}), Size(3, 9, False, 9)),
        (Pool(device="cpu", least=2), machines({"GPU": 4, "CPU": 8}), Size(2, 2, False, 2)),
        # A machine that has left.
        (Pool(), [*machines({"GPU": 1}), {"Alive": False, "Resources": {}}], Size(1, 1, True, 1)),
    ],
)
def test_actors_fit_on_the_machines_that_are_there_now(pool, nodes, size):
    assert size_of(pool, nodes, is_local=pool.address is None) == size


@pytest.mark.parametrize(
    ("parts", "size"),
    [(2, Size(2, 2, True, 2)), (5, Size(4, 5, True, 3)), (9, Size(4, 8, True, 3))],
)
def test_there_are_no_more_actors_than_parts(parts, size):
    assert limit_to_parts(Size(4, 8, True, 3), parts) == size


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (None, "Ray cannot start on this machine; fix what Ray reports, or add --no-ray"),
        ("auto", "--address auto: no Ray cluster answers there; give HOST:PORT of a head node"),
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, Exception])
def test_the_error_says_why_ray_does_not_start(monkeypatch, address, told, kind):
    """Ray raises Exception itself if a machine is so busy that its start takes 30 seconds."""

    def refuse(**_):
        raise kind("no room in /dev/shm\nand more")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError) as refused:
        OnRay(None, Pool(address))
    assert str(refused.value).startswith(told)
    assert str(refused.value).endswith(": no room in /dev/shm")


def test_a_gpu_that_this_machine_lacks_is_an_error():
    with pytest.raises(SettingError, match=r"^DREAM_O_DEVICE='cuda' needs a GPU, and"):
        size_of(Pool(device="cuda"), machines({"CPU": 4}), is_local=True)


@pytest.fixture
def enter(tmp_path):
    """`enter(state, expected)` adds an actor in this state to a run."""

    def enter(state, expected=1):
        entry = ActorState(Storage(str(tmp_path)), "run", expected)
        entry.write(state)
        return entry

    return enter


def test_actors_that_cannot_load_give_up_if_none_works_or_loads(enter):
    first = enter(FAILED)
    assert first.no_actor_can_load()
    second = enter(LOADING)
    assert not first.no_actor_can_load()
    second.write(FAILED)
    assert first.no_actor_can_load()
    second.write(WORKS)
    assert not first.no_actor_can_load()


def test_an_actor_that_cannot_load_waits_for_actors_that_have_not_started_yet(enter, monkeypatch):
    first = enter(FAILED, expected=2)
    assert not first.no_actor_can_load()
    monkeypatch.setattr(actor_states, "APPEAR_SECONDS", 0.0)
    assert first.no_actor_can_load()


@pytest.mark.parametrize("state", [LOADING, WORKS])
def test_no_actor_waits_for_one_that_was_killed(enter, state):
    first, second = enter(FAILED), enter(state)
    written = time.time() - actor_states.SILENT_SECONDS - 1
    second.storage.write(second.path, json.dumps([state, written]).encode())
    assert first.no_actor_can_load()


@pytest.fixture
def actor(tried):
    """`actor(load)`: an actor of a pool of one, in this process."""
    document = openapi_document(type(load_predictor(DEFAULT)))

    def make(load):
        job = Job(load, Storage(str(tried.output)), document, False)
        return Actor(job, "run", Size(1, 1, False, 1))

    return make


def test_an_actor_that_works_renews_its_state(actor, tried, monkeypatch):
    monkeypatch.setattr(actor_states, "RENEW_SECONDS", -1.0)
    working = actor(tried.load)
    (entry,) = (tried.output / ".batch" / "actors" / "run").iterdir()
    entry.unlink()
    checker = Checker(working._worker.job.document, {}, str(tried.folder), "bundle")
    row = checker.check(Row(1, {"name": "a", "prompt": "hill"}))
    table = ready_table([Ready(Task(row.name, row.digest, row.inputs), {})], "journal")
    assert [each.status for each in outcomes_of(working(table))] == ["succeeded"]
    assert json.loads(entry.read_text())[0] == WORKS


def test_any_error_of_loading_is_one_sentence(actor):
    def load(_):
        raise RuntimeError("CUDA error:\n out of memory")

    (outcome,) = outcomes_of(actor(load)(None))
    assert outcome.digest == UNUSABLE
    assert outcome.error == "the model cannot be loaded: RuntimeError: CUDA error: out of memory"
