"""Data-parallel training on CPU cores.

Small matrices gain little from a second thread. So several processes of one thread each compute the
gradients of parts of a batch. The first process averages them and steps. The result depends on the
number of parts, not on the number of cores.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.multiprocessing import get_context

from dream_o.errors import UserError
from training.draw import Draw
from training.work import log_progress

Loss = Callable[[Draw], torch.Tensor]

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its free space is read; nothing is written by name
SHARED_BYTES = 400 << 20  # the references take 160 MiB, the model and its gradients 20
SECONDS_TO_END = 10.0


class LostProcessError(UserError):
    """Another process of a training failed or was killed."""

    def __init__(self) -> None:
        super().__init__(
            "another process of the training ended early; if it says why, this is above; "
            "run the same command again to continue"
        )


def check_shared_memory() -> None:
    """Checks that the processes can share their tensors.

    Raises:
        UserError: there is too little shared memory, which Docker limits to 64 MB.
    """
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < SHARED_BYTES:
        raise UserError(
            f"a training needs {SHARED_BYTES >> 20} MB of shared memory; "
            "a container gets more with docker run --shm-size=1g"
        )


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
def beside(work: Callable[..., object], *arguments: Any) -> Iterator[Connection]:
    """Runs `work(pipe, *arguments)` in another process beside the block.

    The end of the block closes the pipe and waits for the process. An error in the block ends the
    process.

    Args:
        work: a function of a module, because the process imports it.
        arguments: tensors are shared with the process.

    Yields:
        This end of the pipe.

    Raises:
        LostProcessError: the process failed or was killed; raised after the block.
    """
    here, there = multiprocessing.Pipe()
    process = get_context("spawn").Process(target=_run_in_child, args=(there,), daemon=True)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends this process alone
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)
        there.close()
    try:
        with here:
            try:
                here.send((work, arguments))
            except OSError as error:
                raise LostProcessError from error
            yield here
        process.join()
    finally:
        process.terminate()
        process.join(SECONDS_TO_END)
        process.kill()
        process.join()
    if process.exitcode:
        raise LostProcessError


def _run_in_child(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that half-written files are deleted
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log_progress()
    try:
        work, arguments = pipe.recv()
        with one_thread():
            work(pipe, *arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class Gradients:
    """The gradients of a model's steps, each the mean of the gradients of its parts.

    With several parts, a parameter that no part uses has a gradient of 0.

    Args:
        model: the model; with several parts it is on the CPU, and its parameters become shared.
        loss: the mean loss of one part. With several parts, a `partial` of a module's function that
            holds this same `model`, so that both stay one object in the other process.
        seed, stage: what the randomness depends on; see `Draw`.
        parts: the number of processes, with this one.
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
            shared = [torch.zeros_like(each).share_memory_() for each in trained(self.model)]
            held = self.model, self.loss, self.seed, self.stage, part, shared
            self._others.append((self._processes.enter_context(beside(_serve, *held)), shared))

    def step(self, step: int) -> float:
        """Sets the gradients of a step; returns its loss.

        Raises:
            LostProcessError: another process failed or was killed.
        """
        if self.parts > 1 and not self._others:  # a finished stage starts no process
            self._start()
        for pipe, _ in self._others:
            _exchange(pipe.send, step)
        total = _backward(self.model, self.loss, Draw.of(self.seed, self.stage, step))
        for pipe, shared in self._others:
            total += _exchange(pipe.recv)
            for parameter, gradient in zip(trained(self.model), shared, strict=True):
                own = parameter.grad
                parameter.grad = gradient.clone() if own is None else own.add_(gradient)
        if self.parts > 1:
            for parameter in trained(self.model):
                assert parameter.grad is not None
                parameter.grad.div_(self.parts)
        return total / self.parts


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that a training changes."""
    return [each for each in model.parameters() if each.requires_grad]


def _exchange(call: Callable[..., Any], *message: int) -> Any:
    try:
        return call(*message)
    except (EOFError, OSError) as error:
        raise LostProcessError from error


def _backward(model: nn.Module, loss: Loss, draw: Draw) -> float:
    model.zero_grad(set_to_none=True)
    value = loss(draw)
    value.backward()
    return float(value.detach())


def _serve(
    pipe: Connection,
    model: nn.Module,
    loss: Loss,
    seed: int,
    stage: str,
    part: int,
    shared: list[torch.Tensor],
) -> None:
    """Computes the gradients of one part of each step whose number arrives."""
    model.train()
    while True:
        try:
            step = pipe.recv()
        except (EOFError, OSError):  # the first process has closed the pipe
            return
        value = _backward(model, loss, Draw.of(seed, stage, step, part))
        for parameter, gradient in zip(trained(model), shared, strict=True):
            if parameter.grad is None:
                gradient.zero_()
            else:
                gradient.copy_(parameter.grad)
        pipe.send(value)
