"""The form's components, made from the predictors' schemas."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from dream_o.errors import InputError, UserError
from dream_o.page.values import Schema
from dream_o.sizes import TOKEN_PIXELS

# What each task keeps, for the choice beside a reference.
TASK_CHOICES = [
    ("ip: keeps the object, animal or character", "ip"),
    ("id: keeps the face", "id"),
    ("style: keeps the style of the whole image", "style"),
]
DEFAULT_TASK = "ip"
# Labels that say more than the input's name.
LABELS = {
    "prompt": "Prompt",
    "width": "Width",
    "height": "Height",
    "num_steps": "Steps",
    "guidance": "Guidance",
    "seed": "Seed",
    "dev_key": "Developer key",
    "negative_prompt": "Negative prompt",
    "neg_prompt": "Negative prompt",
    "model": "Model",
    "styles": "Styles",
    "steps": "Steps",
}
LINES = {"prompt": 3, "neg_prompt": 2, "negative_prompt": 2}
# Inputs in pixels, and the step of their sliders.
PIXELS = {"width", "height"}


def alert(problem: UserError | str) -> gr.Error:
    """Makes the error that Gradio shows to the user, without a traceback in the log."""
    return gr.Error(str(problem), print_exception=False)


def reference_image(slot: int) -> gr.Image:
    """A component for an image that is uploaded, pasted or taken with the webcam, as a path."""
    image = gr.Image(
        label=f"Reference {slot}",
        type="filepath",
        sources=["upload", "clipboard", "webcam"],
        height=200,
        buttons=[],
        elem_id=f"reference-{slot}",
    )
    # Not in a subclass, because Gradio would write a .pyi file for it beside this module.
    image.preprocess = partial(_upload, slot)
    take_uploads_only(image)
    return image


def take_uploads_only(component: gr.components.Component) -> None:
    """Makes a component refuse URLs, which Gradio would download without a limit of size."""
    move = component.async_move_resource_to_block_cache

    async def moved(file: Any) -> str | None:
        if str(file).lower().startswith(("http://", "https://")):
            raise alert("send the image, not its address")
        return await move(file)

    component.async_move_resource_to_block_cache = moved


def _upload(slot: int, payload: Any) -> str | None:
    """Returns an upload's path; `dream_o.images.opening` opens it with more checks than Gradio."""
    if payload is None:
        return None
    if not payload.path:
        raise InputError(f"ref_image{slot}", "send an upload, not a data URL")
    return str(payload.path)


def copy_to_uploads(file: str | os.PathLike[str]) -> str:
    """Copies a file of the server to Gradio's uploads, so that a component can show it."""
    return save_file_to_cache(file, get_upload_folder())


def component(
    name: str, schema: Schema, pixel_step: int = TOKEN_PIXELS, id_prefix: str = "input"
) -> gr.components.Component:
    """The component for an input: a choice, a switch, a slider, a secret or a text."""
    described = schema[name]
    options = {
        "label": LABELS.get(name, name),
        "info": described.get("description"),
        "elem_id": f"{id_prefix}-{name}",
    }
    default = described.get("default")
    if name == "seed":
        # A number field would round seeds above 2^53.
        return gr.Textbox(value="", placeholder="random", max_lines=1, **options)
    if "enum" in described:
        return gr.Radio(described["enum"], value=default, **options)
    if described["type"] == "boolean":
        return gr.Checkbox(value=default, **options)
    if "minimum" in described and "maximum" in described:
        return _slider(name, described, options, pixel_step)
    if described.get("format") == "password":
        return gr.Textbox(type="password", max_lines=1, **options)
    return gr.Textbox(value=default or "", lines=LINES.get(name, 1), **options)


def _slider(
    name: str, described: Mapping[str, Any], options: dict[str, Any], pixel_step: int
) -> gr.Slider:
    low, high = described["minimum"], described["maximum"]
    whole = described["type"] == "integer"
    step = pixel_step if name in PIXELS else 1 if whole else 0.1
    default = described.get("default")
    return gr.Slider(low, high, value=low if default is None else default, step=step, **options)


def for_field(name: str, value: Any) -> Any:
    """Converts an input's value to the value of its component."""
    return "" if value is None else str(value) if name == "seed" else value


def random_seed_js() -> str:
    """JavaScript that returns a random seed of 32 bits."""
    return "() => String(crypto.getRandomValues(new Uint32Array(1))[0])"
