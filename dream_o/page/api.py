"""The two endpoints for programs and agents: `/generate` and `/render`.

Each returns only an image; the settings are in the file's metadata. With two outputs, Gradio's MCP
server would give agents text instead of an image.
"""

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from dream_o.errors import UserError
from dream_o.images.writing import write_image
from dream_o.locked_folders import make_locked
from dream_o.page.compose import OUTPUT, Form, references_of
from dream_o.page.desk import Desk, Job
from dream_o.page.fields import alert
from dream_o.page.render_form import RenderForm
from dream_o.page.values import (
    DREAM_O,
    DREAM_RENDER,
    checked,
    render_request_of,
    request_of,
    required_of,
    schema_of,
)
from dream_o.service.result import Result

REFERENCE = "ref_image"
TASK = "ref_task"


def add_api(desk: Desk, form: Form, render: RenderForm, queue: Mapping[str, Any]) -> None:
    """Adds the endpoints; their inputs are the schemas', in the schemas' order."""
    image = gr.Image(visible=False, type="filepath", label="image")

    def generate(values: dict[str, Any]) -> str:
        """Generates an image from a prompt and up to two reference images with DreamO."""
        slots = range(1, 1 + sum(name.startswith(REFERENCE) for name in values))
        images = [values.pop(f"{REFERENCE}{slot}") for slot in slots]
        inputs = checked(values, DREAM_O)
        tasks = [inputs[f"{TASK}{slot}"] for slot in slots]
        request = request_of(inputs, references_of(images, tasks))
        return deliver(desk.job(request), inputs)

    def draw(values: dict[str, Any]) -> str:
        """Generates an image from a prompt alone with DreamRender, by Stable Diffusion."""
        inputs = checked(values, DREAM_RENDER)
        request = render_request_of(inputs)
        return deliver(desk.render_job(request, inputs["dev_key"]), inputs)

    def deliver(job: Job, inputs: Mapping[str, Any]) -> str:
        """Makes the image; returns a file that Gradio serves and later deletes like an upload."""
        *_, result = desk.run([job], Event())
        assert isinstance(result, Result)
        output = {name: inputs[name] for name in OUTPUT}
        folder = Path(get_upload_folder())
        make_locked(folder)
        kind, quality = output.values()
        path = write_image(result.image, kind, quality, result.metadata | output, folder)
        # Whoever knows the name can get the file, so nobody must be able to guess it.
        path = path.rename(folder / f"{secrets.token_hex(16)}.{kind}")
        image.temp_files.add(str(path))
        return str(path)

    of_dream_o = {
        **form.fields,
        **{f"{REFERENCE}{n}": slot.image for n, slot in enumerate(form.slots, start=1)},
        **{f"{TASK}{n}": slot.task for n, slot in enumerate(form.slots, start=1)},
    }
    endpoints: Sequence[tuple[str, str, Callable[..., Any], dict[str, Any]]] = (
        ("generate", DREAM_O, generate, of_dream_o),
        ("render", DREAM_RENDER, draw, render.fields),
    )
    for name, predictor, answer, components in endpoints:
        names = list(schema_of(predictor))
        gr.Button(visible=False).click(
            _endpoint(name, answer, predictor),
            [components[each] for each in names],
            image,
            api_name=name,
            show_progress="hidden",
            **queue,
        )


def _endpoint(
    name: str, answer: Callable[[dict[str, Any]], Any], predictor: str
) -> Callable[..., Any]:
    """Gives `answer` a parameter for each input, which Gradio shows to clients."""
    schema = schema_of(predictor)
    names = list(schema)

    def endpoint(*values: Any) -> Any:
        try:
            return answer(dict(zip(names, values, strict=True)))
        except UserError as error:
            raise alert(error) from None

    required = required_of(predictor)
    endpoint.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                each,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty
                if each in required
                else schema[each].get("default"),
            )
            for each in names
        ]
    )
    lines = [f"    {each}: {schema[each].get('description', '')}" for each in names]
    endpoint.__doc__ = "\n".join([answer.__doc__ or "", "", "Args:", *lines])
    endpoint.__name__ = name
    return endpoint
