"""One long-lived thread that does all the work of a device.

cuDNN keeps the plans of attention and convolutions for each thread. The Cog server sets up on one
thread and predicts on whichever is free, so without this every thread would make its plans again,
in the time of a request.
"""

import contextvars
import ctypes
import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# A thread that waits for a lock in C cannot be interrupted; one that polls can.
POLL_SECONDS = 0.02
# What a health check multiplies: a square matrix of this side by itself.
PROBE_SIDE = 64
# How long a health check waits for the device. The Cog server waits 5 s for the check.
HEALTH_SECONDS = 4.0


class Interrupted(BaseException):
    """Raised in the device's thread when the thread that waits for its answer was interrupted.

    It is no Exception, like KeyboardInterrupt, so that nothing takes it for a failure.
    """


class _Done:
    """An event without a lock in Python, which an interruption could leave acquired."""

    def __init__(self) -> None:
        self._is_set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Wakes the one thread that waits."""
        self._is_set = True
        self._wake.put(None)

    def wait(self, seconds: float) -> bool:
        """Whether it was set within this time."""
        if not self._is_set:
            with suppress(queue.Empty):
                self._wake.get(timeout=seconds)
        return self._is_set


@dataclass(eq=False)
class _Job:
    call: Callable[[], Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    done: "_Done" = field(default_factory=lambda: _Done())
    answer: Any = None
    error: BaseException | None = None
    abandoned: bool = False


class DeviceThread:
    """Makes calls one after the other, each for a thread that waits for the answer."""

    def __init__(self, device: torch.device) -> None:
        """Args: device, whose work this is; the thread starts with the first call."""
        self.device = device
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        # Re-entrant, so that its thread can give back what an interruption left acquired.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._running: _Job | None = None
        self._unfinished: set[_Job] = set()
        self._probe: _Job | None = None

    def call(self, function: Callable[[], Answer]) -> Answer:
        """What the function returns or raises, called in the device's thread.

        It sees the caller's context variables, by which the Cog server knows whose log lines are
        whose. An exception that is raised in the caller while it waits, such as the Cog server's
        for a cancelled request, stops the function at its next line of Python.
        """
        if threading.current_thread() is self._thread:
            return function()
        job = _Job(function)
        try:
            with self._lock:
                self._submit(job)
            _wait_for(job)
        except BaseException:
            self._interrupt(job)
            raise
        if job.error is not None:
            # The error knows the thread's frames and they the job: with both, none would be freed.
            error, job.error = job.error, None
            raise error
        answer: Answer = job.answer
        return answer

    def is_healthy(self, seconds: float = HEALTH_SECONDS) -> bool:
        """Whether the device computes a small product in its thread within this time.

        A CPU always does. While a caller waits for an answer nothing is asked of the thread: a
        broken device ends that call with an error, and is found by the next check.
        """
        if self.device.type == "cpu":
            return True
        with self._lock:
            probe = self._probe
            if probe is None or probe not in self._unfinished:
                if self._unfinished:
                    return True
                probe = self._probe = _Job(self._compute)
                self._submit(probe)
        if not probe.done.wait(seconds):
            logger.error("health: %s did not answer within %g s", self.device, seconds)
            return False
        if probe.error is not None:
            logger.error("health: %s failed: %s", self.device, probe.error)
        return probe.error is None

    def _compute(self) -> None:
        ones = torch.ones(PROBE_SIDE, PROBE_SIDE, device=self.device)
        if float((ones @ ones).sum()) != PROBE_SIDE**3:
            raise RuntimeError("a product is wrong")

    def _submit(self, job: _Job) -> None:
        """Called under the lock."""
        if self._thread is None:
            name = f"device {self.device}"
            self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._thread.start()
        self._jobs.put(job)
        self._unfinished.add(job)

    def _serve(self) -> None:
        while True:
            try:
                self._make_next_call()
            except Interrupted:
                # It arrived when the call had just ended, perhaps between the acquisition of the
                # lock and the block that releases it.
                with suppress(RuntimeError):
                    while True:
                        self._lock.release()
                if self._running is not None:
                    self._finish(self._running)

    def _make_next_call(self) -> None:
        job = self._jobs.get()
        with self._lock:
            if job.abandoned:
                self._unfinished.discard(job)
                return
            self._running = job
        try:
            job.answer = job.context.run(job.call)
        except BaseException as error:
            job.error = error
        self._finish(job)

    def _finish(self, job: _Job) -> None:
        with self._lock:
            job.done.set()
            self._unfinished.discard(job)
            self._running = None

    def _interrupt(self, job: _Job) -> None:
        with self._lock:
            if job is not self._running:
                job.abandoned = True  # not begun, or ended
                return
            # Under the lock, so that the thread cannot be at another caller's job already.
            assert self._thread is not None
            thread = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Interrupted))
        _wait_for(job)


def _wait_for(job: _Job) -> None:
    while not job.done.wait(POLL_SECONDS):
        pass
