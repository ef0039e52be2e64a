"""Connects the forms, the results and the examples by events."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from dream_o.errors import UserError
from dream_o.library_internals import leave_queue
from dream_o.page import markup
from dream_o.page.compose import QUIET, Form
from dream_o.page.desk import Desk, Job, next_seeds
from dream_o.page.examples import Example
from dream_o.page.fields import alert, copy_to_uploads
from dream_o.page.outputs import KEY, Entry
from dream_o.page.render_form import RenderForm
from dream_o.page.studio import SHOWN_RESULTS, Studio
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
SHOW_NOTE = "() => document.querySelector('#note')?.scrollIntoView({block: 'nearest'})"
DEVICE: dict[str, Any] = {
    "concurrency_id": "device",
    "concurrency_limit": 1,
}
"""The options of events that use the device: they wait for each other in one queue."""

DREAM_O_TAB, RENDER_TAB = "dream-o", "dream-render"


class Page:
    """The parts of the page that events connect."""

    def __init__(
        self,
        blocks: gr.Blocks,
        desk: Desk,
        form: Form,
        render: RenderForm,
        studio: Studio,
        tabs: gr.Tabs,
    ) -> None:
        self.blocks, self.desk = blocks, desk
        self.form, self.render, self.studio, self.tabs = form, render, studio, tabs

    @property
    def forms(self) -> list[Any]:
        """The components that `filled` updates."""
        return [*self.form.components, *self.form.outer, *self.render.components, self.tabs]

    def filled(
        self, predictor: str, values: Any, references: Mapping[int, Reference] | None = None
    ) -> list[Any]:
        """Updates of `forms` that make the predictor's form show these inputs."""
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

        dev_key = self.render.fields["dev_key"]
        for button, answer, inputs in (
            (self.form.go, generate, self.form.components),
            (self.render.go, render, self.render.components),
            (studio.vary, vary, [studio.selected, dev_key]),
        ):
            ran = button.click(studio.wait, None, studio.shown, **QUIET).then(
                answer,
                [studio.key, *inputs],
                studio.shown,
                trigger_mode="once",
                show_progress_on=studio.watch,
                api_visibility="private",
                **DEVICE,
            )
            ran.failure(studio.not_accepted, None, studio.shown, **QUIET)
            self._list_after(ran)

        # A coroutine runs in the server's event loop, as `leave_queue` requires.
        async def cancel(request: gr.Request) -> dict[Any, Any]:
            tab = tab_of(request)
            desk.runs.cancel(tab)
            left = await leave_queue(self.blocks, tab, DEVICE["concurrency_id"])
            if left and not desk.runs.has(tab):
                return studio.left_queue()
            return {studio.cancel: gr.skip()}

        studio.cancel.click(cancel, None, studio.shown, **QUIET)

    def _list_after(self, event: Any) -> None:
        """Updates the gallery after an event."""
        studio = self.studio
        event.then(studio.listing, studio.listed_by, studio.listed, **QUIET)

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
        """The events that show, reuse and delete results."""
        studio, outputs = self.studio, self.desk.outputs

        def pick(key: str, event: gr.EventData) -> dict[Any, Any]:
            return studio.show(key, str(event.name))

        for html in (studio.gallery, studio.watch):
            self._list_after(html.pick(pick, studio.key, studio.shown, **QUIET))

        def show_more(count: int) -> int:
            return count + SHOWN_RESULTS

        self._list_after(studio.more.click(show_more, studio.count, studio.count, **QUIET))

        def use_settings(key: str, name: str) -> list[Any]:
            try:
                entry = outputs.entry(key, name)
            except UserError as error:
                raise alert(error) from error
            return self.filled(made_by(entry.metadata), entry.metadata, entry.references)

        selected = [studio.key, studio.selected]
        studio.use.click(use_settings, selected, self.forms, **QUIET)

        def use_as_reference(key: str, name: str, shown: int, *images: Any) -> list[Any]:
            used = [slot for slot, image in enumerate(images) if image]
            free = next((slot for slot in range(len(images)) if slot not in used), None)
            try:
                if free is None:
                    raise UserError(f"all {len(images)} references are used; remove one first")
                file = copy_to_uploads(outputs.path(key, name))
            except UserError as error:
                raise alert(error) from error
            updates = [
                gr.update(value=file) if n == free else gr.skip() for n in range(len(images))
            ]
            shown = max(shown, free + 1)
            return [*updates, *self.form.show_slots(shown), gr.update(selected=DREAM_O_TAB)]

        images = [slot.image for slot in self.form.slots]
        studio.again.click(
            use_as_reference,
            [*selected, self.form.shown, *images],
            [*images, *self.form.slots_shown, self.tabs],
            **QUIET,
        )
        studio.delete.click(lambda: gr.update(visible=True), None, studio.sure, **QUIET)
        self._list_after(studio.sure.click(studio.remove, selected, studio.shown, **QUIET))

    def wire_restoring(
        self, dropped: gr.File, note: gr.HTML, table: gr.HTML, rows: tuple[Example, ...]
    ) -> None:
        """The events that fill the form: dropping an image and clicking an example."""

        def restored(file: str | None) -> list[Any]:
            try:
                if not file:
                    raise UserError("there is no file; drop a webp, jpg or png image")
                found = restore(file)
            except UserError as error:
                nothing = [gr.skip() for _ in self.forms]
                words = f"{error}; to use an image as a reference, drop it on a reference's field"
                return [*nothing, markup.problem(words), None]
            words = " ".join(("The form shows the settings of the image.", *found.notes))
            return [*self.filled(found.predictor, found.values), markup.note(words), None]

        dropped.upload(restored, dropped, [*self.forms, note, dropped], **QUIET)
        # The image may have been dropped far below the note.
        note.change(None, None, None, js=SHOW_NOTE, api_visibility="private")

        def fill(event: gr.EventData) -> list[Any]:
            row = rows[int(event.name)]
            slots = enumerate(row.references, start=1)
            references = {slot: Reference(file, task) for slot, (file, task) in slots}
            return [*self.filled(DREAM_O, row.inputs, references), ""]

        table.pick(fill, None, [*self.forms, note], **QUIET)

    def wire_loading(self) -> None:
        """The events when the page opens or closes; a browser without a key gets one."""

        def greet(key: str) -> str:
            known = isinstance(key, str) and KEY.fullmatch(key)
            return key if known else secrets.token_hex(16)

        studio = self.studio
        self._list_after(self.blocks.load(greet, studio.key, studio.key, **QUIET))
        self.blocks.unload(self._leave)

    def _leave(self, request: gr.Request) -> None:
        self.desk.runs.cancel(tab_of(request))


def _known(entry: Entry, fields: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.metadata[name] for name in fields if name in entry.metadata}


def tab_of(request: gr.Request) -> str:
    """The browser tab that an event comes from."""
    return request.session_hash or ""
