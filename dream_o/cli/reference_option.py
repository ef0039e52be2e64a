"""`dream-o predict --reference FILE:TASK`: up to nine references, where the schema has two."""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_o.errors import InputError, UserError
from dream_o.server.inputs import open_file, resolved
from dream_o.service.checks import request_of
from dream_o.sizes import MAX_REFERENCES

OWN_INPUT = re.compile(r"ref_(image|task)[0-9]+")
URL = re.compile(r"https?://", re.IGNORECASE)


def reference_inputs(
    options: Sequence[str], given: Mapping[str, Any], document: Mapping[str, Any]
) -> dict[str, str]:
    """The inputs `ref_image1`, `ref_task1` and so on that the options stand for.

    Args:
        options: the values of `--reference`, in the order of the slots.
        given: the inputs of `-i`.
        document: the predictor's OpenAPI document, whose `ref_task1` names the tasks.

    Returns:
        Files as `@path` or as a URL, for `open_references`.

    Raises:
        UserError: an option cannot be used, there are more than nine, or `-i` sets references too.
    """
    if not options:
        return {}
    properties = document["components"]["schemas"]["Input"]["properties"]
    if "ref_task1" not in properties:
        raise UserError("--reference: this predictor has no reference images; leave the option out")
    for name in given:
        if OWN_INPUT.fullmatch(name):
            raise InputError(name, "give references either as -i or as --reference, not as both")
    if len(options) > MAX_REFERENCES:
        raise UserError(
            f"--reference is given {len(options)} times; at most {MAX_REFERENCES} are allowed"
        )
    tasks = resolved(properties["ref_task1"], document)["enum"]
    inputs: dict[str, str] = {}
    for slot, option in enumerate(options, start=1):
        file, _, task = option.rpartition(":")
        if not file or task not in tasks:
            *others, last = tasks
            raise UserError(
                f"--reference {option}: give FILE:TASK, such as photo.jpg:{tasks[0]}; "
                f"the tasks are {', '.join(others)} and {last}"
            )
        inputs[f"ref_image{slot}"] = file if URL.match(file) else f"@{file}"
        inputs[f"ref_task{slot}"] = task
    return inputs


def open_references(inputs: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The result of `reference_inputs` with its files opened; downloads go into the folder.

    Raises:
        InputError: a file does not exist, or a download fails.
    """
    return {
        name: open_file(name, value, folder) if name.startswith("ref_image") else value
        for name, value in inputs.items()
    }


def predicted(predictor: Any, inputs: Mapping[str, Any]) -> Path:
    """The file that the predictor makes, also of more references than its `predict` takes."""
    if inputs.keys() <= inspect.signature(predictor.predict).parameters.keys():
        return Path(predictor.predict(**inputs))
    written = inputs["output_format"], inputs["output_quality"]
    return Path(predictor.answer(request_of(inputs), *written))
