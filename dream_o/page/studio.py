"""The image as it appears, and the gallery of this browser."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from dream_o.errors import UserError
from dream_o.page import markup
from dream_o.page.desk import Desk, Job
from dream_o.page.outputs import Entry, place_of
from dream_o.page.runs import Progress

logger = logging.getLogger(__name__)

# The newest results in the gallery; older ones stay on disk.
SHOWN_RESULTS = 60

PICK = """
element.addEventListener('click', event => {
    const button = event.target.closest('[data-pick]');
    if (button) trigger('pick', {name: button.dataset.pick});
});
"""
"""Buttons in the page's own HTML; `pick` carries the name of the one that was clicked."""

Jobs = Callable[[], tuple[dict[str, Any], list[Job]]]
"""Checks a form; returns the inputs and the jobs that they ask for."""


@dataclass
class Studio:
    """The column that shows what is made, and what was made before.

    Attributes:
        key: the browser's key to its results.
        selected: the name of the result that is shown, or an empty text.
    """

    desk: Desk
    key: gr.BrowserState
    selected: gr.State = field(default_factory=lambda: gr.State(""))

    def lay_out(self, variations: int) -> None:
        """Makes the components in the current column."""
        self.cancel = gr.Button("Cancel", elem_id="cancel", interactive=False, size="sm")
        self.stage = gr.HTML(markup.EMPTY, elem_id="stage", js_on_load=PICK)
        with gr.Row(visible=False, elem_id="actions") as self.actions:
            self.use = gr.Button("Use these settings", size="sm", elem_id="use-settings")
            self.again = gr.Button("Use as reference", size="sm", elem_id="use-reference")
            self.vary = gr.Button(f"Vary: next {variations} seeds", size="sm", elem_id="vary")
            self.delete = gr.Button("Delete", size="sm", elem_id="delete")
            self.sure = gr.Button(
                "Delete for good", size="sm", variant="stop", visible=False, elem_id="sure"
            )
        gr.HTML("<h2>Your images</h2>")
        self.gallery = gr.HTML("", elem_id="gallery", js_on_load=PICK)

    @property
    def shown(self) -> list[Any]:
        """What the updates of this class are for."""
        return [self.stage, self.gallery, self.selected, self.actions, self.cancel, self.sure]

    def grid(self, key: str, selected: str = "") -> str:
        """The gallery's HTML."""
        outputs = self.desk.outputs
        more = max(0, len(outputs.names(key)) - SHOWN_RESULTS)
        return markup.gallery(key, outputs.newest(key, SHOWN_RESULTS), selected, more)

    def run(self, key: str, prepare: Jobs, tab: str) -> Iterator[dict[Any, Any]]:
        """Runs what `prepare` asks for; yields updates. A refusal is shown in the stage.

        Args:
            key: the browser's key.
            prepare: gives the jobs, or raises UserError.
            tab: the browser's tab, which can cancel the jobs.
        """
        yield {
            self.stage: markup.waiting("Preparing the references and the prompt"),
            self.actions: gr.update(visible=False),
            self.sure: gr.update(visible=False),
            self.cancel: gr.update(interactive=True),
        }
        try:
            place_of(key)
            inputs, jobs = prepare()
            yield from self._run(key, inputs, jobs, tab)
        except UserError as error:
            yield self._stopped(key, str(error))
        except Exception:
            logger.exception("page: a request failed")
            yield self._stopped(key, "the image could not be made; the server's log says why")
        yield {self.cancel: gr.update(interactive=False)}

    def _stopped(self, key: str, problem: str) -> dict[Any, Any]:
        """Updates that show why no more is made; the gallery has what was made before."""
        updates: dict[Any, Any] = {self.stage: markup.problem(problem), self.selected: ""}
        with suppress(UserError):  # a key that is none has no gallery
            updates[self.gallery] = self.grid(key)
        return updates

    def _run(
        self, key: str, inputs: dict[str, Any], jobs: Sequence[Job], tab: str
    ) -> Iterator[dict[Any, Any]]:
        made: list[Entry] = []
        output = inputs["output_format"], inputs["output_quality"]
        with closing(self.desk.run(tab, jobs)) as events:
            for event in events:
                if isinstance(event, Progress):
                    done = markup.thumbnails(key, made)
                    yield {self.stage: markup.progress(event, len(made) + 1, len(jobs), done)}
                else:
                    references = jobs[len(made)].references
                    made.append(self.desk.outputs.add(key, event, *output, references))
        if len(made) == 1:
            yield self.show(key, made[0].name)
        else:
            yield {
                self.stage: markup.side_by_side(key, made),
                self.selected: "",
                self.actions: gr.update(visible=False),
                self.gallery: self.grid(key),
            }

    def show(self, key: str, name: str) -> dict[Any, Any]:
        """Updates that show one result."""
        try:
            entry = self.desk.outputs.entry(key, name)
        except UserError as error:
            return {self.stage: markup.problem(str(error)), self.gallery: self.grid(key)}
        return {
            self.stage: markup.result(key, entry),
            self.selected: name,
            self.actions: gr.update(visible=True),
            self.sure: gr.update(visible=False),
            self.gallery: self.grid(key, name),
        }

    def remove(self, key: str, name: str) -> dict[Any, Any]:
        """Deletes a result; returns updates."""
        try:
            self.desk.outputs.delete(key, name)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return {
            self.stage: markup.waiting("Deleted."),
            self.selected: "",
            self.actions: gr.update(visible=False),
            self.sure: gr.update(visible=False),
            self.gallery: self.grid(key),
        }
