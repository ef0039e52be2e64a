"""Connects the forms, the studio and the API with each other."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from dream_o.errors import UserError
from dream_o.page import markup
from dream_o.page.compose import QUIET, Form
from dream_o.page.desk import Desk, Job, next_seeds
from dream_o.page.examples import Example
from dream_o.page.fields import lent
from dream_o.page.outputs import KEY, Entry
from dream_o.page.render_form import RenderForm
from dream_o.page.studio import Studio
from dream_o.page.values import (
    DREAM_O,
    DREAM_RENDER,
    checked,
    made_by,
    render_request_of,
    request_of,
    restore,
)
from dream_o.service.request import Reference

VARIATIONS = 4
DEVICE: dict[str, Any] = {
    "concurrency_id": "device",
    "concurrency_limit": 1,
}
"""Events that use the device wait for each other in one queue."""

DREAM_O_TAB, RENDER_TAB = "dream-o", "dream-render"


class Page:
    """The parts of the page that events connect."""

    def __init__(
        self, desk: Desk, form: Form, render: RenderForm, studio: Studio, tabs: gr.Tabs
    ) -> None:
        self.desk, self.form, self.render, self.studio = desk, form, render, studio
        self.tabs = tabs

    @property
    def forms(self) -> list[Any]:
        """What `filled` updates."""
        return [*self.form.components, *self.form.outer, *self.render.components, self.tabs]

    def filled(
        self, predictor: str, values: Any, references: Mapping[int, Reference] | None = None
    ) -> list[Any]:
        """Updates of `forms`: the predictor's form shows these inputs."""
        if predictor == DREAM_RENDER:
            skipped = [gr.skip() for _ in (*self.form.components, *self.form.outer)]
            return [*skipped, *self.render.filled(values), gr.update(selected=RENDER_TAB)]
        skipped = [gr.skip() for _ in self.render.components]
        filled = self.form.filled(values, references)
        return [*filled, *skipped, gr.update(selected=DREAM_O_TAB)]

    def wire_running(self) -> None:
        """The buttons that generate, vary and cancel."""
        desk, studio = self.desk, self.studio

        def generate(request: gr.Request, key: str, *values: Any) -> Iterator[dict[Any, Any]]:
            def jobs() -> tuple[dict[str, Any], list[Job]]:
                inputs, wanted = self.form.read(values)
                return inputs, [desk.job(wanted)]

            yield from studio.run(key, jobs, tab_of(request))

        def render(request: gr.Request, key: str, *values: Any) -> Iterator[dict[Any, Any]]:
            def jobs() -> tuple[dict[str, Any], list[Job]]:
                inputs, wanted = self.render.read(values)
                return inputs, [desk.render_job(wanted, inputs["dev_key"])]

            yield from studio.run(key, jobs, tab_of(request))

        def vary(
            request: gr.Request, key: str, name: str, dev_key: str
        ) -> Iterator[dict[Any, Any]]:
            def jobs() -> tuple[dict[str, Any], list[Job]]:
                return self._variations(desk.outputs.entry(key, name), dev_key)

            yield from studio.run(key, jobs, tab_of(request))

        options: dict[str, Any] = {
            **DEVICE,
            "show_progress_on": studio.stage,
            "api_visibility": "private",
        }
        dev_key = self.render.fields["dev_key"]
        self.form.go.click(generate, [studio.key, *self.form.components], studio.shown, **options)
        self.render.go.click(render, [studio.key, *self.render.components], studio.shown, **options)
        studio.vary.click(vary, [studio.key, studio.selected, dev_key], studio.shown, **options)

        def cancel(request: gr.Request) -> None:
            desk.runs.cancel(tab_of(request))

        studio.cancel.click(cancel, None, None, **QUIET)

    def _variations(self, entry: Entry, dev_key: str) -> tuple[dict[str, Any], list[Job]]:
        predictor = made_by(entry.metadata)
        if predictor == DREAM_RENDER:
            inputs = checked(_known(entry, self.render.fields) | {"dev_key": dev_key}, predictor)
            first = render_request_of(inputs)
            seeds = next_seeds(first.seed, VARIATIONS)
            requests = [replace(first, seed=seed) for seed in seeds]
            return inputs, [self.desk.render_job(each, dev_key) for each in requests]
        inputs = checked(_known(entry, self.form.fields), predictor)
        request = request_of(inputs, entry.references)
        seeds = next_seeds(request.seed, VARIATIONS)
        return inputs, [self.desk.job(replace(request, seed=seed)) for seed in seeds]

    def wire_gallery(self) -> None:
        """Results: show, use again, delete."""
        studio, outputs = self.studio, self.desk.outputs

        def pick(key: str, event: gr.EventData) -> dict[Any, Any]:
            return studio.show(key, str(event.name))

        for html in (studio.gallery, studio.stage):
            html.pick(pick, studio.key, studio.shown, **QUIET)

        def use_settings(key: str, name: str) -> list[Any]:
            try:
                entry = outputs.entry(key, name)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error
            return self.filled(made_by(entry.metadata), entry.metadata, entry.references)

        selected = [studio.key, studio.selected]
        studio.use.click(use_settings, selected, self.forms, **QUIET)

        def use_as_reference(key: str, name: str, *images: Any) -> list[Any]:
            free = next((slot for slot, image in enumerate(images) if not image), 0)
            try:
                file = lent(outputs.path(key, name))
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error
            updates: list[Any] = []
            for slot in range(len(images)):
                wanted = slot == free
                updates.append(gr.update(value=file) if wanted else gr.skip())
                updates.append(gr.update(visible=True) if wanted else gr.skip())
            return [*updates, gr.update(selected=DREAM_O_TAB)]

        slots = [each for slot in self.form.slots for each in (slot.image, slot.group)]
        images = [slot.image for slot in self.form.slots]
        studio.again.click(use_as_reference, [*selected, *images], [*slots, self.tabs], **QUIET)
        studio.delete.click(lambda: gr.update(visible=True), None, studio.sure, **QUIET)
        studio.sure.click(studio.remove, selected, studio.shown, **QUIET)

    def wire_restoring(
        self, dropped: gr.File, note: gr.HTML, table: gr.HTML, rows: tuple[Example, ...]
    ) -> None:
        """An image that is dropped, and an example that is clicked, fill the form."""

        def restored(file: str | None) -> list[Any]:
            try:
                if not file:
                    raise UserError("there is no file; drop a webp, jpg or png image")
                found = restore(file)
            except UserError as error:
                nothing = [gr.skip() for _ in self.forms]
                return [*nothing, markup.problem(str(error)), None]
            words = " ".join(("The form shows the settings of the image.", *found.notes))
            return [*self.filled(found.predictor, found.values), markup.note(words), None]

        dropped.upload(restored, dropped, [*self.forms, note, dropped], **QUIET)

        def fill(event: gr.EventData) -> list[Any]:
            row = rows[int(event.name)]
            slots = enumerate(row.references, start=1)
            references = {slot: Reference(file, task) for slot, (file, task) in slots}
            return [*self.filled(DREAM_O, row.inputs, references), ""]

        table.pick(fill, None, [*self.forms, note], **QUIET)

    def wire_loading(self, page: gr.Blocks) -> None:
        """A browser that comes for the first time gets a key; one that returns, its results."""

        def greet(key: str) -> tuple[str, str]:
            if not isinstance(key, str) or not KEY.fullmatch(key):
                key = secrets.token_hex(16)
            return key, self.studio.grid(key)

        studio = self.studio
        page.load(greet, studio.key, [studio.key, studio.gallery], **QUIET)
        page.unload(self._leave)

    def _leave(self, request: gr.Request) -> None:
        self.desk.runs.cancel(tab_of(request))


def _known(entry: Entry, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.metadata[name] for name in fields if name in entry.metadata}


def tab_of(request: gr.Request) -> str:
    """The browser tab that an event comes from."""
    return request.session_hash or ""
