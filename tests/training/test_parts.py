"""Training in several processes: the gradient is the mean of the parts, and a lost process shows."""

import os
import signal
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from dream_o.errors import UserError
from training.draw import Draw
from training.optimisers import optimisers
from training.parts import Gradients, beside
from training.stage import Stage, train

SEED, NAME = 3, "parts"


def new_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))


def copy_error(model: nn.Module, draw: Draw, scale: float = 1.0) -> torch.Tensor:
    given = torch.randn(16, 8, generator=draw.torch) * draw.common.random() * scale
    return (model(given) - given).square().mean()


def new_stage(parts: int, steps: int = 4) -> Stage:
    model = new_model()
    return Stage(
        NAME, model, optimisers(model, 0.01, 0.01), partial(copy_error, model), steps, parts=parts
    )


def test_the_gradient_is_the_mean_of_the_parts() -> None:
    stage, alone = new_stage(2), new_model()
    with Gradients(stage.model, stage.loss, SEED, NAME, parts=2) as gradients:
        for step in range(3):  # the other process sees the weights that a step changes
            loss = gradients.step(step)
            alone.zero_grad()
            losses = [copy_error(alone, Draw.of(SEED, NAME, step, part)) for part in range(2)]
            (sum(losses) / 2).backward()
            assert loss == pytest.approx(float(sum(losses) / 2), rel=1e-6)
            for ours, wanted in zip(stage.model.parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, wanted.grad)
            with torch.no_grad():
                for model in (stage.model, alone):
                    for each in model.parameters():
                        each.mul_(0.9)
    assert losses[0] != losses[1]


def test_parts_share_what_is_common_and_nothing_else() -> None:
    first, second = (Draw.of(0, "sparse", 5, part) for part in range(2))
    assert first.common.random() == second.common.random()
    assert first.numpy.random() != second.numpy.random()
    assert torch.rand(1, generator=first.torch) != torch.rand(1, generator=second.torch)


def test_a_stopped_training_in_parts_continues_to_the_same_weights(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    whole, begun, resumed = (new_stage(2) for _ in range(3))
    train(whole, tmp_path / "whole", SEED)
    train(begun, tmp_path / "stopped", SEED, save_every=0.0, stop_after=2)
    train(resumed, tmp_path / "stopped", SEED)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert not psutil.Process().children()
    assert torch.get_num_threads() == threads


def test_a_lost_process_ends_the_training_with_a_sentence() -> None:
    stage = new_stage(2)
    with (
        pytest.raises(UserError, match="^a process of the training ended early"),
        Gradients(stage.model, stage.loss, SEED, NAME, parts=2) as gradients,
    ):
        gradients.step(0)
        for process in psutil.Process().children():
            process.kill()
        gradients.step(1)
    assert not psutil.Process().children()


def test_work_beside_that_fails_is_an_error() -> None:
    with (
        pytest.raises(UserError, match="^a process of the training ended early"),
        beside(os.kill, 0, signal.SIGINT),  # its process group ignores it
        beside(os._exit, 3),
    ):
        pass
