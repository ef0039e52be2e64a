"""Makes the images of tasks with one loaded model, and records each image once it is written."""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dream_o.batch.contents import Contents
from dream_o.batch.ledger import FAILED, SUCCEEDED, Outcome, Task
from dream_o.batch.references import as_files
from dream_o.batch.results import Journal
from dream_o.batch.storage import Storage
from dream_o.errors import InputError, UserError
from dream_o.images.writing import write_image
from dream_o.importing import without_collections
from dream_o.locked_folders import temporary_folder
from dream_o.service.checks import request_of
from dream_o.service.request import Request
from dream_o.service.result import Result
from dream_o.service.settings import Settings

logger = logging.getLogger(__name__)

# With more requests, images are in subfolders, because large folders are slow to list.
MOST_IN_A_FOLDER = 10_000
STAGES = "seconds."
OUTPUT_INPUTS = ("output_format", "output_quality")


class Model(Protocol):
    """What a worker needs of a `DreamO`."""

    def generate(self, request: Request) -> Result:
        """Generates one image."""

    def is_healthy(self) -> bool:
        """Whether the device still computes."""


class LoadedDreamO:
    """A `DreamO` without the progress bar of each image."""

    def __init__(self, settings: Settings, threads: int | None) -> None:
        with without_collections():
            import torch

            from dream_o.service.generator import DreamO

        if threads is not None:
            torch.set_num_threads(threads)
        self._dream_o = DreamO.load(settings)
        self._dream_o.pipeline.set_progress_bar_config(disable=True)
        self.generate = self._dream_o.generate
        self.is_healthy = self._dream_o.thread.is_healthy


@dataclass(frozen=True)
class Load:
    """Loads the model that settings name; can be pickled."""

    settings: Settings

    def __call__(self, threads: int | None) -> Model:
        """Loads the model, which uses `threads` CPU threads, or one per core if it is None."""
        return LoadedDreamO(self.settings, threads)


@dataclass(frozen=True)
class Job:
    """What every worker of a run needs; can be pickled.

    Attributes:
        load: loads the model, given the number of CPU threads or None for one per core.
        storage: the output folder.
        document: the predictor's OpenAPI document.
        sharded: whether images are in subfolders.
        contents: the references inside the file of requests, on the machine of the command.
    """

    load: Callable[[int | None], Model]
    storage: Storage
    document: Mapping[str, Any]
    sharded: bool
    contents: Contents | None = None


@dataclass(frozen=True)
class Ready:
    """A task whose references are prepared.

    Attributes:
        task: the task; fetched references are data URLs.
        prepared: the prepared references by input.
        error: why the task cannot be made; empty if it can.
        is_final: False if another attempt may succeed, for example where the disk is not full.
    """

    task: Task
    prepared: Mapping[str, Any]
    error: str = ""
    is_final: bool = True


class DeviceLostError(UserError):
    """The device does not compute any more. Only a new process may help."""


class Worker:
    """A loaded model that makes tasks, one at a time.

    Args:
        job: what every worker needs.
        threads: the number of CPU threads; None for one per core.
    """

    def __init__(self, job: Job, threads: int | None = None) -> None:
        self.job = job
        self.model = job.load(threads)

    def make_all(self, tasks: Sequence[Ready], journal: str) -> Iterator[Outcome]:
        """Makes the tasks in their order.

        Args:
            tasks: the tasks of one journal.
            journal: the path of the journal. Tasks with a result in it are not made again.

        Raises:
            DeviceLostError: the device does not compute any more.
        """
        kept = Journal(self.job.storage, journal)
        for number, ready in enumerate(tasks, start=1):
            outcome = kept.begin(ready.task.name, ready.task.digest, ready.task.replaces)
            if outcome is None:
                outcome = self.make(ready)
                kept.record(outcome)
                if not outcome.is_final and not self.model.is_healthy():
                    kept.write()
                    raise DeviceLostError(f"the device failed at {outcome.name}: {outcome.error}")
            if number == len(tasks):
                kept.write()
            yield outcome

    def make(self, ready: Ready) -> Outcome:
        """Makes one image, writes its file, and then deletes an earlier image with this name."""
        task = ready.task
        begun = time.perf_counter()
        outcome = Outcome(task.name, task.digest, FAILED, task.replaces)
        try:
            if ready.error:
                raise UserError(ready.error)
            result = self._generate(task, ready.prepared)
            file = self._publish(task, result)
        except UserError as error:
            # Every machine refuses the same inputs.
            is_final = ready.is_final if ready.error else isinstance(error, InputError)
            outcome = replace(outcome, error=str(error), is_final=is_final)
        except Exception as error:
            logger.debug("%s failed", task.name, exc_info=True)
            text = " ".join(f"{type(error).__name__}: {error}".split())
            outcome = replace(outcome, error=text, is_final=False)
        else:
            outcome = replace(
                outcome,
                status=SUCCEEDED,
                file=file,
                seed=int(result.metrics["seed"]),
                stages=_stages(result),
            )
        return replace(outcome, seconds=time.perf_counter() - begun)

    def _generate(self, task: Task, prepared: Mapping[str, Any]) -> Result:
        with as_files(dict(task.inputs) | dict.fromkeys(prepared), self.job.document) as opened:
            return self.model.generate(request_of({**opened, **prepared}))

    def _publish(self, task: Task, result: Result) -> str:
        output = {name: task.inputs[name] for name in OUTPUT_INPUTS}
        suffix, quality = output.values()
        file = f"{folder_of(task.name, self.job.sharded)}{task.name}.{suffix}"
        with temporary_folder("image") as folder:
            made = write_image(result.image, suffix, quality, result.metadata | output, folder)
            self.job.storage.write(file, made.read_bytes())
        if task.replaces and not self.job.storage.is_same(task.replaces, file):
            self.job.storage.remove(task.replaces)
        return file


def folder_of(name: str, sharded: bool) -> str:
    """The subfolder of an image, one of 256, with a slash at its end; empty without subfolders."""
    return f"{hashlib.sha256(name.lower().encode()).hexdigest()[:2]}/" if sharded else ""


def _stages(result: Result) -> dict[str, float]:
    return {
        name.removeprefix(STAGES): seconds
        for name, seconds in result.metrics.items()
        if name.startswith(STAGES)
    }
