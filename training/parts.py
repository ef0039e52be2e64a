"""Trains in several processes, of one thread each.

Small matrices gain little from a second thread. So each process computes the gradient of a part of
a step's examples, and one of them steps with the mean. The result depends on the number of parts
and not on the number of cores.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn
from torch.multiprocessing import get_context

from dream_o.errors import UserError
from training.draw import Draw
from training.work import log_progress

Loss = Callable[[Draw], torch.Tensor]
LOST = "a process of the training ended early; run the same command again"


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def beside(work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Runs `work(*arguments)` in another process during the block, and then waits for it.

    Args:
        work: a function of a module, because the process imports it.
        arguments: tensors are shared with the process.

    Raises:
        UserError: the process ended early.
    """
    process = get_context("spawn").Process(target=_alone, args=(work, arguments), daemon=True)
    process.start()
    try:
        yield
        process.join()
    finally:
        process.kill()
    if process.exitcode:
        raise UserError(LOST)


def _alone(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the first process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log_progress()
    with one_thread():
        work(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Gradients:
    """The gradients of a model's steps, each the mean of the gradients of its parts.

    Args:
        model: the model; its parameters become shared memory.
        loss: the loss of one part; a `partial` of a module's function, with the same model.
        seed, stage: of the randomness.
        parts: the number of processes; with 1 there is no other process than this one.
    """

    def __init__(self, model: nn.Module, loss: Loss, seed: int, stage: str, parts: int) -> None:
        self.model, self.loss, self.seed, self.stage = model, loss, seed, stage
        self.parts = parts
        self._others: list[tuple[Connection, list[torch.Tensor]]] = []
        self._processes = ExitStack()

    def __enter__(self) -> "Gradients":
        return self

    def __exit__(self, *error: Any) -> None:
        self._processes.__exit__(*error)

    def _start(self) -> None:
        self._processes.enter_context(one_thread())
        self.model.share_memory()
        for part in range(1, self.parts):
            here, there = multiprocessing.Pipe()
            shared = [torch.zeros_like(each).share_memory_() for each in self._parameters()]
            held = self.model, self.loss, self.seed, self.stage, part
            self._processes.enter_context(beside(_serve, *held, shared, there))
            self._processes.callback(here.close)  # the process ends when its pipe is closed
            there.close()
            self._others.append((here, shared))

    def _parameters(self) -> list[nn.Parameter]:
        return [each for each in self.model.parameters() if each.requires_grad]

    def step(self, step: int) -> float:
        """Sets the gradients of a step; returns its loss.

        Raises:
            UserError: another process ended.
        """
        if self.parts > 1 and not self._others:
            self._start()
        try:
            for pipe, _ in self._others:
                pipe.send(step)
            total = _backward(self.model, self.loss, Draw.of(self.seed, self.stage, step))
            for pipe, shared in self._others:
                total += pipe.recv()
                for parameter, gradient in zip(self._parameters(), shared, strict=True):
                    own = parameter.grad
                    parameter.grad = gradient.clone() if own is None else own.add_(gradient)
        except (EOFError, OSError) as error:
            raise UserError(LOST) from error
        if self.parts > 1:
            for parameter in self._parameters():
                assert parameter.grad is not None
                parameter.grad.div_(self.parts)
        return total / self.parts


def _backward(model: nn.Module, loss: Loss, draw: Draw) -> float:
    model.zero_grad(set_to_none=True)
    value = loss(draw)
    value.backward()
    return float(value.detach())


def _serve(
    model: nn.Module,
    loss: Loss,
    seed: int,
    stage: str,
    part: int,
    shared: list[torch.Tensor],
    pipe: Connection,
) -> None:
    """Computes the gradients of one part of each step whose number arrives."""
    model.train()
    parameters = [each for each in model.parameters() if each.requires_grad]
    while True:
        try:
            step = pipe.recv()
        except EOFError:
            return
        value = _backward(model, loss, Draw.of(seed, stage, step, part))
        for parameter, gradient in zip(parameters, shared, strict=True):
            if parameter.grad is None:
                gradient.zero_()
            else:
                gradient.copy_(parameter.grad)
        pipe.send(value)
