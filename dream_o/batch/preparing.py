"""Gets a task's references ready on a CPU, while the devices make other images."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from dream_o.batch.ledger import Task
from dream_o.batch.reading import as_data_url
from dream_o.batch.references import as_files, reference_names
from dream_o.batch.worker import Job, Ready
from dream_o.errors import UserError
from dream_o.images.opening import open_image
from dream_o.references import OFFLINE, Backend, prepare
from dream_o.references.prepared import Prepared
from dream_o.service.backend import ready_backend


@lru_cache(1)
def _backend(choice: str) -> Backend:
    return ready_backend(choice, "cpu")


def get_ready(task: Task, job: Job, backend: str, on_gpu: bool) -> Ready:
    """The task with its references prepared; or only fetched, if a GPU prepares them.

    A single request prepares its references on its device. Networks give slightly different pixels
    on a GPU and on a CPU, and the offline backend runs on the CPU everywhere. So a batch gives the
    same image as a single request.

    Args:
        task: the task; its references are addresses.
        job: what every worker needs.
        backend: DREAM_O_REFERENCES.
        on_gpu: whether the workers' devices are GPUs.
    """
    names = [name for name in reference_names(job.document) if task.inputs.get(name) is not None]
    if not names:
        return Ready(task, {})
    try:
        with as_files(task.inputs, job.document) as files:
            chosen = _backend(backend)
            if on_gpu and chosen.name != OFFLINE.name:
                fetched = {name: as_data_url(Path(files[name]).read_bytes()) for name in names}
                inputs = {**task.inputs, **fetched}
                return Ready(Task(task.name, task.digest, inputs, task.replaces), {})
            return Ready(task, {name: _prepared(name, files, chosen) for name in names})
    except UserError as error:
        return Ready(task, {}, str(error))
    except Exception as error:
        # A reading task that fails would end the batch.
        problem = f"the references cannot be prepared: {type(error).__name__}"
        return Ready(task, {}, problem)


def _prepared(name: str, files: dict[str, Any], backend: Backend) -> Prepared:
    slot = int(name.removeprefix("ref_image"))
    task = files[f"ref_task{slot}"]
    before = open_image(files[name], name)
    after = prepare(before, task, files["ref_res"], name, backend)
    return Prepared(slot, task, after, after)
