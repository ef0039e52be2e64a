"""Training in several processes: the gradient is the mean of the parts; a lost process shows."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from dream_o.errors import InputError, UserError
from training import parts
from training.draw import Draw
from training.optimisers import Muon, optimisers
from training.parts import Gradients, beside, check_shared_memory, trained
from training.stage import Stage, train

SEED, NAME = 3, "parts"
LOST = r"^another process of the training ended early; .* run the same command again to continue$"
ENDLESS = """
from pathlib import Path
from tests.training.test_parts import new_stage, train
if __name__ == "__main__":
    train(new_stage(2, steps=1_000_000), Path({folder!r}), 0, save_every=0.0)
"""


def new_model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
    layers.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return layers


def copy_error(model: nn.Module, draw: Draw) -> torch.Tensor:
    given = torch.randn(16, 8, generator=draw.torch) * draw.common.random()
    return (model(given) - given).square().mean()


def new_stage(parts: int, steps: int = 4) -> Stage:
    model = new_model()
    return Stage(
        NAME, model, optimisers(model, 0.01, 0.01), partial(copy_error, model), steps, parts=parts
    )


def children() -> set[psutil.Process]:
    """This process's children, with those of other tests and multiprocessing's own, which stays."""
    resource_tracker.ensure_running()
    return set(psutil.Process().children())


def lose_a_process() -> None:
    stage, before = new_stage(2), children()
    with Gradients(stage.model, stage.loss, SEED, NAME, parts=2) as gradients:
        gradients.step(0)
        (child,) = children() - before
        child.kill()
        gradients.step(1)


def fail(pipe: object, message: str) -> None:
    raise InputError("work", message)


def wait(pipe: object) -> None:
    time.sleep(600)


def raise_beside() -> None:
    with beside(wait):
        raise InputError("block", "failed")


def test_the_gradient_is_the_mean_of_the_parts() -> None:
    stage, alone = new_stage(2), new_model()
    with Gradients(stage.model, stage.loss, SEED, NAME, parts=2) as gradients:
        for step in range(3):  # the other process sees the weights that a step changes
            loss = gradients.step(step)
            alone.zero_grad()
            losses = [copy_error(alone, Draw.of(SEED, NAME, step, part)) for part in range(2)]
            mean = (losses[0] + losses[1]) / 2
            mean.backward()
            assert losses[0] != losses[1]
            assert loss == pytest.approx(float(mean.detach()), rel=1e-6)
            for ours, wanted in zip(trained(stage.model), trained(alone), strict=True):
                expected = torch.zeros_like(wanted) if wanted.grad is None else wanted.grad
                torch.testing.assert_close(ours.grad, expected)
            with torch.no_grad():
                for each in [*trained(stage.model), *trained(alone)]:
                    each.mul_(0.9)


def test_parts_share_what_is_common_and_nothing_else() -> None:
    first, second = (Draw.of(0, "sparse", 5, part) for part in range(2))
    assert first.common.random() == second.common.random()
    assert first.numpy.random() != second.numpy.random()
    assert torch.rand(1, generator=first.torch) != torch.rand(1, generator=second.torch)


def test_a_stopped_training_in_parts_continues_to_the_same_weights(tmp_path: Path) -> None:
    threads, before = torch.get_num_threads(), children()
    whole, begun, resumed = (new_stage(2) for _ in range(3))
    train(whole, tmp_path / "whole", SEED)
    train(begun, tmp_path / "stopped", SEED, save_every=0.0, stop_after=2)
    train(resumed, tmp_path / "stopped", SEED)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert children() <= before
    assert torch.get_num_threads() == threads


def test_muon_gives_the_same_weights_with_several_threads() -> None:
    models = [new_model(), new_model()]
    for workers, model in enumerate(models, 1):
        copy_error(model, Draw.of(SEED, NAME, 0)).backward()
        Muon([each for each in trained(model) if each.ndim == 2], 0.1, workers=workers).step()
    for one, two, untrained in zip(*map(trained, [*models, new_model()]), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, untrained) == (one.ndim < 2)


def test_a_lost_process_ends_the_training_with_a_sentence(capfd) -> None:
    before = children()
    with pytest.raises(UserError, match=LOST):
        lose_a_process()
    with pytest.raises(UserError, match=LOST), beside(fail, "the disk is full"):
        pass
    assert capfd.readouterr().err.count("error: work: the disk is full\n") == 1
    with pytest.raises(InputError, match="block: failed"):
        raise_beside()
    assert children() <= before


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_process_stays_after_a_training_that_was_ended(end, tmp_path: Path) -> None:
    script, folder = tmp_path / "endless.py", tmp_path / "work"
    script.write_text(ENDLESS.format(folder=str(folder)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    while not (folder / f"{NAME}.checkpoint").exists():
        assert process.poll() is None
        time.sleep(0.05)
    begun = psutil.Process(process.pid).children()
    assert begun
    process.send_signal(end)
    assert process.wait() != 0
    assert not psutil.wait_procs(begun, timeout=60)[1]
    if end == signal.SIGINT:
        assert not list(folder.glob(".*"))


def test_too_little_shared_memory_is_an_error_before_the_training(monkeypatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(parts, "SHARED_MEMORY", Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(64 << 20))
    with pytest.raises(UserError, match=r"^a training needs 400 MB of shared memory; a container"):
        check_shared_memory()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 30))
    check_shared_memory()
