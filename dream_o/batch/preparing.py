"""Prepares the references of tasks on a CPU, while the devices make other images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from dream_o.batch.contents import as_data_url
from dream_o.batch.ledger import Task
from dream_o.batch.references import as_files, content_digest, reference_names
from dream_o.batch.trying import problem_of
from dream_o.batch.worker import Job, Ready
from dream_o.errors import InputError, UserError
from dream_o.images.opening import open_image
from dream_o.references import OFFLINE, prepare
from dream_o.references.prepared import Prepared
from dream_o.service.backend import cpu_backend
from dream_o.service.cache import ByteBoundedCache

# Consecutive tasks often have the same references, which this process prepares only once.
KEPT_BYTES = 256 * 2**20
_prepared: ByteBoundedCache[Image.Image] = ByteBoundedCache(KEPT_BYTES)
_fetched: ByteBoundedCache[str] = ByteBoundedCache(KEPT_BYTES)


def get_ready(task: Task, job: Job, backend: str, on_gpu: bool) -> Ready:
    """Prepares a task's references, or only fetches them if networks prepare them on a GPU.

    Networks give slightly different pixels on a GPU and on a CPU, and a single request runs them on
    its device. So the device of a batch runs them too, and the image is the same. The offline
    backend always runs on the CPU.

    Args:
        task: the task, with the addresses of its references.
        job: what every worker needs.
        backend: DREAM_O_REFERENCES.
        on_gpu: whether the workers' devices are GPUs.
    """
    names = [name for name in reference_names(job.document) if task.inputs.get(name) is not None]
    if not names:
        return Ready(task, {})
    try:
        if on_gpu and cpu_backend(backend).name != OFFLINE.name:
            fetched = {name: _fetch(name, task, job.document) for name in names}
            return Ready(replace(task, inputs={**task.inputs, **fetched}), {})
        return Ready(task, {name: _prepare(name, task, job.document, backend) for name in names})
    except InputError as error:
        return Ready(task, {}, str(error))
    except UserError as error:
        return Ready(task, {}, str(error), is_final=False)
    except Exception as error:
        # An exception here would end the whole batch.
        problem = f"the references cannot be prepared: {problem_of(error)}"
        return Ready(task, {}, problem, is_final=False)


def _prepare(name: str, task: Task, document: Mapping[str, Any], backend: str) -> Prepared:
    slot = int(name.removeprefix("ref_image"))
    kind, resolution = task.inputs[f"ref_task{slot}"], task.inputs["ref_res"]

    def make() -> Image.Image:
        with as_files({name: task.inputs[name]}, document) as files:
            before = open_image(files[name], name)
        return prepare(before, kind, resolution, name, cpu_backend(backend))

    key = content_digest(name, task.inputs[name]), kind, resolution, backend
    after = _prepared.get_or_make(key, make, lambda image: 3 * image.width * image.height)
    return Prepared(slot, kind, after, after)


def _fetch(name: str, task: Task, document: Mapping[str, Any]) -> str:
    def make() -> str:
        with as_files({name: task.inputs[name]}, document) as files:
            return as_data_url(Path(files[name]).read_bytes())

    return _fetched.get_or_make(content_digest(name, task.inputs[name]), make, len)
