"""One long-lived thread that does all the work of a device.

cuDNN keeps the plans of attention and convolutions for each thread. The Cog server sets up on one
thread and predicts on whichever is free, so without this every thread would make its plans again,
in the time of a request.

A call is cancelled cooperatively: it asks `stop_if_abandoned` after each denoising step. An
exception that is raised into a thread from outside can arrive between the acquisition of a lock and
the code that releases it, and everyone would wait for that lock from then on.
"""

import contextvars
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# A thread that waits for a lock in C cannot be interrupted; one that polls can.
POLL_SECONDS = 0.02
# How long an interrupted caller waits for its call to stop: longer than most steps on a GPU, so
# that the device is usually free when the caller goes on.
STOP_SECONDS = 2.0
# What a health check multiplies: a square matrix of this side on its own.
PROBE_SIDE = 64
# How long a health check waits for the device. The Cog server waits 5 s for the check.
HEALTH_SECONDS = 4.0
# A call that has not stopped this long after its caller was interrupted hangs. A step takes less on
# every GPU that docs/cards.md lists.
HANG_SECONDS = 120.0


class Interrupted(BaseException):
    """Ends a call whose caller was interrupted while it waited for the answer.

    It is no Exception, like KeyboardInterrupt, so that nothing takes it for a failure.
    """


class _Done:
    """An event without a lock in Python, which an interruption of a waiting thread could leak."""

    def __init__(self) -> None:
        self._is_set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self._is_set = True
        self._wake.put(None)

    def wait(self, seconds: float) -> bool:
        """Whether it was set within this time."""
        end = time.monotonic() + seconds
        while not self._is_set and (left := end - time.monotonic()) > 0:
            with suppress(queue.Empty):
                self._wake.get(timeout=min(left, POLL_SECONDS))
        return self._is_set


@dataclass(eq=False)
class _Job:
    call: Callable[[], Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    done: _Done = field(default_factory=_Done)
    answer: Any = None
    error: BaseException | None = None
    has_begun: bool = False
    # The time at which its caller was interrupted.
    abandoned: float | None = None


_running: contextvars.ContextVar[_Job] = contextvars.ContextVar("running")


def stop_if_abandoned() -> None:
    """Ends the call that runs in this device's thread if its caller was interrupted.

    Raises:
        Interrupted: nobody waits for this call's answer. Outside such a call it does nothing.
    """
    job = _running.get(None)
    if job is not None and job.abandoned is not None:
        raise Interrupted


def stop_between_steps(
    pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
) -> dict[str, Any]:
    """`stop_if_abandoned` as diffusers' pipelines call it: `callback_on_step_end`."""
    stop_if_abandoned()
    return {}


class DeviceThread:
    """Makes calls one after the other, each for a thread that waits for the answer."""

    def __init__(self, device: torch.device) -> None:
        """Starts the thread, which ends with this object. Args: device, whose work this is."""
        self.device = device
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._now: list[_Job] = []  # the job that is being done, if any
        self._probe: _Job | None = None
        self._probing = threading.Lock()
        self._thread = threading.Thread(
            target=_serve, args=(self._jobs, self._now), name=f"device {device}", daemon=True
        )
        self._thread.start()
        weakref.finalize(self, self._jobs.put, None)

    def call(self, function: Callable[[], Answer]) -> Answer:
        """What the function returns or raises, called in the device's thread.

        It sees the caller's context variables, by which the Cog server knows whose log lines are
        whose. If an exception is raised in the caller while it waits, such as the Cog server's for
        a cancelled request, the function ends when it next asks `stop_if_abandoned`.
        """
        if threading.current_thread() is self._thread:
            return function()
        job = _Job(function)
        try:
            self._jobs.put(job)
            while not job.done.wait(STOP_SECONDS):
                pass
        except BaseException:
            # The thread notes that a job has begun before it looks whether the job is abandoned,
            # so one that has not begun here will not be made.
            job.abandoned = time.monotonic()
            if job.has_begun:
                job.done.wait(STOP_SECONDS)
            raise
        if job.error is not None:
            # The error knows the thread's frames and they the job: with both, none would be freed.
            error, job.error = job.error, None
            raise error
        answer: Answer = job.answer
        return answer

    def is_healthy(self, seconds: float = HEALTH_SECONDS) -> bool:
        """Whether the device computes a small product in its thread within this time.

        A CPU always does. Nothing is asked of a thread that makes a call: a broken device ends that
        call with an error, and the next check finds it. A call that was cancelled and does not stop
        is a device that hangs.
        """
        if self.device.type == "cpu":
            return True
        with self._probing:
            probe = self._probe
            if probe is None or probe.done.wait(0):
                if self._now or not self._jobs.empty():
                    return not self._hangs()
                probe = self._probe = _Job(self._compute)
                self._jobs.put(probe)
        if not probe.done.wait(seconds):
            if not probe.has_begun and not self._hangs():
                return True  # a call came first
            logger.error("health: %s did not answer within %g s", self.device, seconds)
            return False
        if probe.error is not None:
            logger.error("health: %s failed: %s", self.device, probe.error)
        return probe.error is None

    def _hangs(self) -> bool:
        abandoned = [job.abandoned for job in tuple(self._now) if job.abandoned is not None]
        hangs = any(time.monotonic() - since > HANG_SECONDS for since in abandoned)
        if hangs:
            logger.error("health: a cancelled call on %s does not stop", self.device)
        return hangs

    def _compute(self) -> None:
        ones = torch.ones(PROBE_SIDE, PROBE_SIDE, device=self.device)
        if float((ones @ ones).sum()) != PROBE_SIDE**3:
            raise RuntimeError("a product is wrong")


def _serve(jobs: "queue.SimpleQueue[_Job | None]", now: list[_Job]) -> None:
    """The thread; it knows the queue and not the DeviceThread, which could not end otherwise."""
    while (job := jobs.get()) is not None:
        now.append(job)
        job.has_begun = True
        if job.abandoned is None:
            job.context.run(_make, job)
        now.clear()
        job.done.set()
        del job  # and with it the answer


def _make(job: _Job) -> None:
    before = _running.set(job)
    try:
        job.answer = job.call()
    except BaseException as error:
        job.error = error
    # The job has the context: with the job in it, neither would be freed.
    _running.reset(before)
