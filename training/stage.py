"""A training stage: its steps can be stopped at any moment and continued later."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from dream_o.atomic import atomic_write
from training.optimisers import Average, rate_share, set_rate
from training.parts import Gradients, Loss

logger = logging.getLogger(__name__)

CLIP_NORM = 1.0


@dataclass(frozen=True)
class Stage:
    """One model's training.

    Attributes:
        name: the name of the stage and of its checkpoint.
        model: the model, which is trained in place.
        optimisers: the optimisers; all of them step.
        loss: the mean loss of a part of a step, from its randomness; see `Gradients`.
        steps: the total number of steps.
        horizon: the number of steps that the average of the weights covers; 0 for no average.
        decay: the share of the steps, at the end, over which the learning rate falls to zero.
        parts: the number of processes, each of which computes the gradient of a part of a step.
    """

    name: str
    model: nn.Module
    optimisers: Sequence[torch.optim.Optimizer]
    loss: Loss
    steps: int
    horizon: float = 0.0
    decay: float = 0.5
    parts: int = 1


def train(
    stage: Stage,
    folder: Path,
    seed: int,
    save_every: float = 60.0,
    stop_after: int | None = None,
) -> None:
    """Runs a stage to its end, from its last checkpoint if there is one.

    At the end, the model has the averaged weights. The log gets a line of JSON every 25 steps, with
    the seconds so far and an estimate of the seconds that are `left` for this stage.

    Args:
        stage: the stage.
        folder: the folder of `NAME.checkpoint` (safe to load, it contains no code) and `NAME.log`.
        seed: the seed of all randomness.
        save_every: seconds between checkpoints.
        stop_after: ends the call after this many steps, as a kill would; for tests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{stage.name}.checkpoint"
    average = Average(stage.model, stage.horizon) if stage.horizon else None
    step, seconds = 0, 0.0
    if checkpoint.exists():
        step, seconds = _load(checkpoint, stage, average)
        logger.info("%s: continues at step %d", stage.name, step)
    begun = saved = time.perf_counter()
    recent: list[float] = []
    done = 0
    stage.model.train()
    with Gradients(stage.model, stage.loss, seed, stage.name, stage.parts) as gradients:
        while step < stage.steps:
            if stop_after is not None and done >= stop_after:
                return
            recent.append(gradients.step(step))
            nn.utils.clip_grad_norm_(stage.model.parameters(), CLIP_NORM)
            share = rate_share(step, stage.steps, decay=stage.decay)
            for optimiser in stage.optimisers:
                set_rate(optimiser, share)
                optimiser.step()
            step, done = step + 1, done + 1
            if average is not None:
                average.update(stage.model, step)
            now = time.perf_counter()
            if step % 25 == 0 or step == stage.steps:
                line = {
                    "stage": stage.name,
                    "step": step,
                    "of": stage.steps,
                    "loss": round(sum(recent) / len(recent), 5),
                    "seconds": round(seconds + now - begun, 1),
                    "left": round((now - begun) / done * (stage.steps - step), 1),
                }
                with (folder / f"{stage.name}.log").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                logger.info("%s", line)
                recent.clear()
            if now - saved > save_every or step == stage.steps:
                _save(checkpoint, stage, average, step, seconds + now - begun)
                saved = now
    if average is not None:
        average.copy_to(stage.model)
    stage.model.eval()


def _save(path: Path, stage: Stage, average: Average | None, step: int, seconds: float) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "model": stage.model.state_dict(),
        "optimisers": [each.state_dict() for each in stage.optimisers],
        "average": average.values if average else {},
    }
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_without_tensors(state, tensors))
    with atomic_write(path) as file:
        file.write(save(tensors, {"state": tree}))


def _load(path: Path, stage: Stage, average: Average | None) -> tuple[int, float]:
    with safe_open(path, "pt") as file:
        held = _with_tensors(json.loads(file.metadata()["state"]), file.get_tensor)
    stage.model.load_state_dict(held["model"])
    for optimiser, state in zip(stage.optimisers, held["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    if average is not None:
        average.values = {
            name: held["average"][name].to(value.device) for name, value in average.values.items()
        }
    return int(held["step"]), float(held["seconds"])


def _without_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON, in which each tensor is a name in `tensors`.

    A dictionary becomes a list of pairs, because the keys of an optimiser's state are numbers.
    """
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [(key, _without_tensors(each, tensors)) for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return [_without_tensors(each, tensors) for each in value]
    return value


def _with_tensors(value: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_with_tensors(each, tensor) for each in value]
    if isinstance(value, dict) and "tensor" in value:
        return tensor(value["tensor"])
    if isinstance(value, dict):
        return {key: _with_tensors(each, tensor) for key, each in value["pairs"]}
    return value
