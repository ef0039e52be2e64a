"""The form of the first tab: prompt, references, size, seed and the folded inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from dream_o.errors import UserError
from dream_o.page import markup
from dream_o.page.desk import Desk
from dream_o.page.fields import (
    DEFAULT_TASK,
    TASK_CHOICES,
    component,
    copy_to_uploads,
    for_field,
    random_seed_js,
    reference_image,
)
from dream_o.page.values import DREAM_O, checked, request_of, schema_of
from dream_o.service.request import Reference, Request, has_negative_pass
from dream_o.sizes import MAX_REFERENCES

SHOWN_SLOTS = 2
SHAPES = {
    "square": (1024, 1024),
    "small square": (768, 768),
    "portrait": (768, 1024),
    "landscape": (1024, 768),
}
EXACT = "exact"
OUTPUT = ("output_format", "output_quality")
QUIET: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""The options of events that are answered at once and do not belong to the API."""


@dataclass
class Slot:
    """A reference slot's components."""

    group: gr.Column
    image: gr.Image
    task: gr.Radio
    seen: gr.HTML


@dataclass
class Form:
    """The form's components.

    Attributes:
        fields: a component for each input of the schema but the references, by name.
        slots: the reference slots in order.
        shape: the choice that sets width and height.
        shown: how many slots are shown.
        more: the button that shows one more.
        go: the button that generates.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    shape: Any = None
    shown: Any = None
    more: Any = None
    go: Any = None

    @property
    def components(self) -> list[Any]:
        """All components, in the order that `read` takes their values."""
        images = [slot.image for slot in self.slots]
        return [*self.fields.values(), *images, *(slot.task for slot in self.slots)]

    def read(self, values: Sequence[Any]) -> tuple[dict[str, Any], Request]:
        """Converts the components' values to the inputs that the schema allows, and the request.

        Raises:
            InputError: a value is not allowed.
        """
        count, slots = len(self.fields), len(self.slots)
        named = dict(zip(self.fields, values[:count], strict=True))
        images, tasks = values[count : count + slots], values[count + slots :]
        inputs = checked(named, DREAM_O)
        return inputs, request_of(inputs, references_of(images, tasks))

    def filled(
        self, values: Mapping[str, Any], references: Mapping[int, Reference] | None = None
    ) -> list[Any]:
        """Updates of `components`, `shape` and `slots_shown` that make the form show these inputs.

        Args:
            values: inputs by name; the others get their defaults.
            references: the references by slot, from 1; all other slots become empty. None keeps
                the present references.
        """
        defaults = {name: each.get("default") for name, each in schema_of(DREAM_O).items()}
        whole = defaults | dict(values)
        fields = [gr.update(value=for_field(name, whole[name])) for name in self.fields]
        images, tasks = [], []
        for slot in range(1, len(self.slots) + 1):
            task = values.get(f"ref_task{slot}")
            if references is None:
                images.append(gr.skip())
                tasks.append(gr.update(value=task) if task else gr.skip())
            else:
                kept = references.get(slot)
                images.append(
                    gr.update(value=copy_to_uploads(kept.file) if kept and kept.file else None)
                )
                tasks.append(gr.update(value=kept.task if kept else task or DEFAULT_TASK))
        size = whole["width"], whole["height"]
        shapes = [name for name, shape in SHAPES.items() if shape == size]
        shape = gr.update(value=shapes[0] if shapes else EXACT)
        return [*fields, *images, *tasks, shape, *self.show_slots_of(references)]

    def show_slots_of(self, references: Mapping[int, Any] | None) -> list[Any]:
        """Updates of `slots_shown` that show all of these slots; None keeps what is shown."""
        if references is None:
            return [gr.skip() for _ in self.slots_shown]
        return self.show_slots(max(SHOWN_SLOTS, *references, 0))

    def show_slots(self, count: int) -> list[Any]:
        """Updates of `slots_shown` that show the first `count` slots."""
        count = min(count, len(self.slots))
        groups = [gr.update(visible=slot < count) for slot in range(len(self.slots))]
        return [count, gr.update(visible=count < len(self.slots)), *groups]

    @property
    def slots_shown(self) -> list[Any]:
        """The number of slots that are shown, the button for another one, and the slots."""
        return [self.shown, self.more, *(slot.group for slot in self.slots)]

    @property
    def outer(self) -> list[Any]:
        """The further components that `filled` updates."""
        return [self.shape, *self.slots_shown]


def references_of(images: Sequence[Any], tasks: Sequence[str]) -> dict[int, Reference]:
    """The slots that have an image, from 1."""
    return {
        slot: Reference(Path(image), task)
        for slot, (image, task) in enumerate(zip(images, tasks, strict=True), start=1)
        if image
    }


def compose(desk: Desk) -> Form:
    """Lays out the form in the current column, and connects its parts."""
    schema = schema_of(DREAM_O)
    form = Form()
    fields: dict[str, Any] = {}
    fields["prompt"] = component("prompt", schema)
    unknown_notes = {"prompt": gr.HTML("", elem_id="unknown-words")}
    with gr.Row(equal_height=False):
        for slot in range(1, MAX_REFERENCES + 1):
            form.slots.append(_slot(slot))
    form.shown = gr.State(SHOWN_SLOTS)
    form.more = gr.Button("Add a reference", size="sm", elem_id="add-reference")
    with gr.Row(elem_classes="main-inputs"):
        start = "square" if desk.dream_o.thread.device.type != "cpu" else "small square"
        form.shape = gr.Radio(
            [*((f"{name}, {w} x {h}", name) for name, (w, h) in SHAPES.items()), EXACT],
            value=start,
            label="Size",
            elem_id="shape",
        )
    with gr.Row(visible=False) as exact:
        for name, pixels in zip(("width", "height"), SHAPES[start], strict=True):
            fields[name] = component(name, schema)
            fields[name].value = pixels
    with gr.Row():
        fields["num_steps"] = component("num_steps", schema)
        fields["guidance"] = component("guidance", schema)
    with gr.Row(equal_height=True):
        fields["seed"] = component("seed", schema)
        die = gr.Button("Roll the die", size="sm", elem_id="die", min_width=90)
    form.go = gr.Button("Generate", variant="primary", elem_id="generate")
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        for name in schema:
            if name not in fields and not name.startswith("ref_image") and name not in OUTPUT:
                if name.startswith("ref_task"):
                    continue
                fields[name] = component(name, schema)
                if name == "neg_prompt":
                    unknown_notes[name] = gr.HTML("", elem_id="unknown-negative-words")
                    no_effect = gr.HTML("", elem_id="negative-note")
        for name in OUTPUT:
            fields[name] = component(name, schema)
    form.fields = {name: fields[name] for name in schema if name in fields}

    _wire_size(form, exact)
    _wire_slots(desk, form)
    die.click(None, None, form.fields["seed"], js=random_seed_js(), api_visibility="private")
    if desk.is_miniature:
        for name, shown in unknown_notes.items():
            form.fields[name].change(
                partial(_unknown, desk),
                form.fields[name],
                shown,
                trigger_mode="always_last",
                show_progress="hidden",
                queue=False,
                api_visibility="private",
            )
    _wire_negative(form, no_effect)
    return form


def _slot(slot: int) -> Slot:
    visible = slot <= SHOWN_SLOTS
    with gr.Column(visible=visible, min_width=280, elem_classes="slot") as group:
        image = reference_image(slot)
        seen = gr.HTML("", elem_id=f"seen-{slot}", elem_classes="seen")
        task = gr.Radio(
            TASK_CHOICES,
            value=DEFAULT_TASK,
            label=f"Task of reference {slot}",
            elem_id=f"task-{slot}",
        )
    return Slot(group, image, task, seen)


def _wire_size(form: Form, exact: gr.Row) -> None:
    def choose(shape: str) -> list[Any]:
        if shape == EXACT:
            return [gr.skip(), gr.skip(), gr.update(visible=True)]
        width, height = SHAPES[shape]
        return [width, height, gr.update(visible=False)]

    outputs = [form.fields["width"], form.fields["height"], exact]
    form.shape.change(choose, form.shape, outputs, **QUIET)


def _wire_slots(desk: Desk, form: Form) -> None:
    def add(count: int) -> list[Any]:
        return form.show_slots(count + 1)

    form.more.click(add, form.shown, form.slots_shown, **QUIET)
    for number, slot in enumerate(form.slots, start=1):
        gr.on(
            [slot.image.change, slot.task.change, form.fields["ref_res"].release],
            partial(_see, desk, number),
            [slot.image, slot.task, form.fields["ref_res"]],
            slot.seen,
            trigger_mode="always_last",
            show_progress="minimal",
            concurrency_id="references",
            concurrency_limit=1,
            api_visibility="private",
        )


def _see(desk: Desk, slot: int, image: str | None, task: str, ref_res: Any) -> str:
    if not image:
        return ""
    try:
        values = checked({"prompt": "", "ref_res": ref_res}, DREAM_O)
        return markup.prepared(desk.prepare(slot, Reference(Path(image), task), values["ref_res"]))
    except UserError as error:
        return markup.problem(str(error))


def _unknown(desk: Desk, prompt: str) -> str:
    return markup.underlined(prompt, desk.unknown_words(prompt))


def negative_note(**given: Any) -> str:
    """A note if the negative prompt has no effect; empty otherwise.

    Args:
        given: `neg_prompt`, `true_cfg`, `cfg_start_step`, `cfg_end_step` and `num_steps`. If the
            user has cleared a number, Gradio gives None, and the result is empty.
    """
    if None in given.values() or not given["neg_prompt"].strip():
        return ""
    if has_negative_pass(Request("", **given)):
        return ""
    return markup.note(
        "The negative prompt has no effect: it needs true_cfg above 1 and cfg_end_step above "
        "cfg_start_step."
    )


def _wire_negative(form: Form, target: gr.HTML) -> None:
    names = ("neg_prompt", "true_cfg", "cfg_start_step", "cfg_end_step", "num_steps")

    def explain(*values: Any) -> str:
        return negative_note(**dict(zip(names, values, strict=True)))

    inputs = [form.fields[name] for name in names]
    gr.on([each.change for each in inputs], explain, inputs, target, **QUIET)
