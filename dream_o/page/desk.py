"""What the page uses: the loaded models, the results on disk, and the running requests."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
from PIL import Image

from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.painting import all_steps
from dream_o.dream_render.request import RenderRequest
from dream_o.errors import InputError
from dream_o.page.latent_preview import LatentPreview, RenderPreview
from dream_o.page.outputs import Outputs
from dream_o.page.request_files import copy_references
from dream_o.page.runs import CancelledError, Draw, Progress, Runs, watch
from dream_o.paths import HOME
from dream_o.references.prepared import Prepared
from dream_o.server.metrics import Metrics
from dream_o.server.request_log import log_entry
from dream_o.service.generator import DreamO
from dream_o.service.miniature import KNOWS
from dream_o.service.request import Reference, Request, check_request
from dream_o.service.result import Result
from dream_o.service.seeds import LARGEST, choose_seed
from dream_o.service.settings import Settings
from dream_o.service.steps import OnStep

OUTPUTS = HOME / "outputs"


@dataclass(frozen=True)
class Job:
    """A checked request that is ready to run.

    Attributes:
        request: the inputs.
        generate: runs a request; calls its second argument after each step.
        steps: the number of these calls.
        draw: draws previews; None for none.
    """

    request: Request | RenderRequest
    generate: Callable[[Any, OnStep], Result]
    steps: int
    draw: Draw | None = None

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references of the request; none for DreamRender."""
        return self.request.references if isinstance(self.request, Request) else ()

    def with_copies_in(self, folder: Path) -> "Job":
        """Copies the job's references to `folder`; raises InputError if a file is gone."""
        if not isinstance(self.request, Request):
            return self
        references = copy_references(self.references, folder)
        return replace(self, request=replace(self.request, references=references))


@dataclass
class Desk:
    """The models that answer the page's requests, in one thread for the device.

    Attributes:
        dream_o: the loaded bundle.
        render: DreamRender; its models are loaded when they are needed.
        previews: draws previews of DreamO's images.
        render_previews: draws previews of DreamRender's images.
        outputs: the results of all browsers.
        runs: the requests that can be cancelled.
        metrics: what Prometheus reads at `/metrics`.
    """

    dream_o: DreamO
    render: DreamRender
    previews: LatentPreview
    render_previews: RenderPreview
    outputs: Outputs
    runs: Runs = field(default_factory=Runs)
    metrics: Metrics = field(default_factory=lambda: Metrics("page"))

    @classmethod
    def load(cls, settings: Settings, folder: Path = OUTPUTS) -> "Desk":
        """Loads what the settings name, as the predictors do; results go into the folder.

        Raises:
            SettingError: this machine does not support a setting.
            BundleError: the bundle cannot be used.
        """
        return cls.of(DreamO.load(settings), DreamRender.load(settings), folder)

    @classmethod
    def of(cls, dream_o: DreamO, render: DreamRender, folder: Path) -> "Desk":
        """A desk with loaded models."""
        render.thread = dream_o.thread  # one thread does all the work of the device
        previews = dream_o.thread.call(partial(LatentPreview, dream_o.pipeline))
        models = render.registry.models
        render_previews = RenderPreview(lambda name: render.checkpoints.get(models[name]))
        return cls(dream_o, render, previews, render_previews, Outputs(folder))

    @property
    def is_miniature(self) -> bool:
        """Whether the embedded toy model is loaded."""
        return self.dream_o.miniature is not None

    @property
    def banner(self) -> str:
        """What a user of the miniature must know; empty for a real model."""
        if not self.is_miniature:
            return ""
        return f"This is the miniature, a toy model without DreamO's quality: {KNOWS}."

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the miniature does not know; none for a real model."""
        miniature = self.dream_o.miniature
        return miniature.unknown_words(prompt) if miniature else []

    def prepare(self, slot: int, reference: Reference, ref_res: int) -> Prepared:
        """Prepares a reference for display, and caches it for the request.

        This does not wait for the thread of the device, which may be busy with another request.

        Raises:
            InputError: the image cannot be used; names `ref_image` and the slot.
        """
        empty = Reference(None, reference.task)
        slots = (*(empty for _ in range(slot - 1)), reference)
        prepared = self.dream_o.encoded.prepared(Request("", slots, ref_res=ref_res))[-1]
        if prepared is None:
            raise InputError(f"ref_image{slot}", "is empty; add an image")
        return prepared

    def job(self, request: Request) -> Job:
        """A job of DreamO; raises InputError if the request cannot be used."""
        check_request(request)
        draw = partial(self._draw, (request.width, request.height))
        return Job(request, self.dream_o.generate, request.num_steps, draw)

    def render_job(self, request: RenderRequest, dev_key: str) -> Job:
        """A job of DreamRender, which checks the key when it runs."""

        def generate(request: RenderRequest, on_step: OnStep) -> Result:
            return self.render.generate(request, dev_key, on_step)

        def draw(before: torch.Tensor, after: torch.Tensor, step: int) -> Image.Image | None:
            return self.render_previews.draw(request.model, before, after)

        return Job(request, generate, all_steps(request.steps, request.enable_hr), draw)

    def run(self, jobs: Sequence[Job], cancelled: Event) -> Generator[Progress | Result]:
        """Runs jobs one after the other, each with its progress and then its result.

        Args:
            jobs: what to make.
            cancelled: once it is set, the running job ends at its next step and no other begins.

        Raises:
            UserError: a request was refused, failed, or was cancelled.
        """
        for job in jobs:
            yield from self._measured(job, cancelled)

    def _measured(self, job: Job, cancelled: Event) -> Generator[Progress | Result]:
        """Runs one job, counts it in the metrics, and logs a line."""
        outcome, found = "failed", {}
        begun = time.perf_counter()
        self.metrics.begin()
        try:
            for event in watch(partial(job.generate, job.request), job.steps, cancelled, job.draw):
                if isinstance(event, Result):
                    outcome, found = "succeeded", event.metrics
                yield event
        except (CancelledError, GeneratorExit):
            if outcome != "succeeded":  # a tab may be closed after its image was made
                outcome = "canceled"
            raise
        finally:
            seconds = time.perf_counter() - begun
            self.metrics.record(outcome, seconds, metrics=found)
            line = {"outcome": outcome, "seconds_total": round(seconds, 4)}
            log_entry(line | ({"seed": found["seed"]} if "seed" in found else {}))

    def _draw(
        self, size: tuple[int, int], before: torch.Tensor, after: torch.Tensor, step: int
    ) -> Image.Image:
        return self.previews.draw(before, after, step, size)


def next_seeds(seed: int | None, count: int) -> list[int]:
    """The `count` seeds that follow `seed`, or a random seed if it is None."""
    first = choose_seed(seed)
    return [(first + further) % (LARGEST + 1) for further in range(1, count + 1)]
