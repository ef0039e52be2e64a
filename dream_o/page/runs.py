"""Runs a request for the page: progress, previews, and cancelling after a step."""

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image

from dream_o.errors import UserError
from dream_o.service.result import Result
from dream_o.service.steps import OnStep

logger = logging.getLogger(__name__)

Draw = Callable[[torch.Tensor, torch.Tensor, int], Image.Image | None]
"""Draws a preview from the latents before and after a step, and the step; may return None."""


class CancelledError(UserError):
    """The user cancelled the request."""

    def __init__(self) -> None:
        super().__init__("cancelled; change what you like and generate again")


@dataclass(frozen=True)
class Progress:
    """How far a request is.

    Attributes:
        step: the number of steps that are done.
        steps: the number of all steps.
        seconds_left: an estimate, without the time to decode the image; None before two steps.
        preview: a preview of the image, or None.
    """

    step: int
    steps: int
    seconds_left: float | None = None
    preview: Image.Image | None = None


class Runs:
    """The requests that each browser tab waits for, so that the tab can cancel them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: defaultdict[str, list[threading.Event]] = defaultdict(list)

    @contextmanager
    def cancellable(self, tab: str) -> Iterator[threading.Event]:
        """Yields an event that `cancel` sets; setting it ends the tab's request."""
        event = threading.Event()
        with self._lock:
            self._of[tab].append(event)
        try:
            yield event
        finally:
            event.set()
            with self._lock:
                self._of[tab].remove(event)
                if not self._of[tab]:
                    del self._of[tab]

    def has(self, tab: str) -> bool:
        """Whether a request of the tab runs."""
        with self._lock:
            return tab in self._of

    def cancel(self, tab: str) -> None:
        """Cancels the requests of a tab."""
        with self._lock:
            for event in self._of.get(tab, ()):
                event.set()


def watch(
    generate: Callable[[OnStep], Result],
    steps: int,
    cancelled: threading.Event,
    draw: Draw | None = None,
) -> Iterator[Progress | Result]:
    """Calls `generate` in a thread of its own; yields its progress and at last its result.

    Args:
        generate: runs the request, and calls its argument after each step.
        steps: the number of steps.
        cancelled: once it is set, the request ends at its next step.
        draw: draws previews; None for none. If it raises an exception, this is logged, and `draw`
            is not called again.

    Raises:
        CancelledError: `cancelled` was set.
        UserError: the request was refused or failed.
    """
    told: queue.SimpleQueue[Progress | Result | BaseException] = queue.SimpleQueue()
    begun = time.monotonic()
    before: list[torch.Tensor] = []
    times: list[float] = []

    def preview_of(latents: torch.Tensor, step: int) -> Image.Image | None:
        nonlocal draw
        if draw is None or not before:
            return None
        try:
            return draw(before[0], latents, step)
        except Exception:
            logger.exception("page: a preview failed; this request goes on without previews")
            draw = None
            return None

    def on_step(step: int, latents: torch.Tensor) -> None:
        if cancelled.is_set():
            raise CancelledError
        # The first step takes longer than the others, so it does not count for the pace.
        times.append(time.monotonic())
        done = len(times)  # `step` begins at 0 again in a second pass
        pace = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
        preview = preview_of(latents, step)
        before[:] = [latents]
        left = None if pace is None else pace * max(steps - done, 0)
        told.put(Progress(min(done, steps), steps, left, preview))

    def work() -> None:
        try:
            told.put(generate(on_step))
        except BaseException as error:
            told.put(error)

    if cancelled.is_set():
        raise CancelledError
    threading.Thread(target=work, name=f"page {begun:.0f}", daemon=True).start()
    yield Progress(0, steps)
    while True:
        event = told.get()
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Result) and cancelled.is_set():
            raise CancelledError
        yield event
        if isinstance(event, Result):
            return
