"""All that can be known of a dream-o request before a model is loaded."""

from collections.abc import Mapping
from dataclasses import fields
from itertools import count, takewhile
from typing import Any

from dream_o.errors import InputError
from dream_o.images.opening import open_image
from dream_o.references import prepare
from dream_o.references.prepared import Prepared
from dream_o.service.backend import cpu_backend
from dream_o.service.request import Reference, Request, check_request, request_problems
from dream_o.service.seeds import check_seed

# The only task whose preparation can fail.
NEEDS_A_FACE = "id"


def request_of(inputs: Mapping[str, Any]) -> Request:
    """Makes a dream-o request from the inputs of `predict`."""
    own = {field.name for field in fields(Request)} - {"references"}
    slots = takewhile(lambda slot: f"ref_image{slot}" in inputs, count(1))
    references = tuple(
        Reference(inputs[f"ref_image{slot}"], inputs[f"ref_task{slot}"]) for slot in slots
    )
    return Request(references=references, **{name: inputs[name] for name in own})


def check_inputs(request: Request) -> None:
    """Checks everything but the reference images; raises InputError, which names the input."""
    check_request(request)
    check_seed(request.seed)


def input_problems(request: Request) -> list[InputError]:
    """Everything that `check_inputs` refuses, an error for each input."""
    found = list(request_problems(request))
    try:
        check_seed(request.seed)
    except InputError as problem:
        found.append(problem)
    return found


def check_references(request: Request, backend: str) -> None:
    """Opens every reference, and looks for a face where the task needs one.

    Args:
        request: its references are files.
        backend: DREAM_O_REFERENCES; the networks run on the CPU and are loaded once a process.

    Raises:
        InputError: a reference cannot be used; names the input.
        SettingError: the backend's files are missing.
        BundleError: a network cannot be downloaded.
    """
    for slot, reference in enumerate(request.references, start=1):
        if reference.image is None or isinstance(reference.image, Prepared):
            continue
        name = f"ref_image{slot}"
        image = open_image(reference.image, name)
        if reference.task == NEEDS_A_FACE:
            prepare(image, reference.task, request.ref_res, name, cpu_backend(backend))
