"""The column with the running request, the selected result, and the gallery of this browser."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from dream_o.errors import UserError
from dream_o.locked_folders import make_locked
from dream_o.page import markup
from dream_o.page.desk import Desk, Job
from dream_o.page.fields import alert
from dream_o.page.outputs import Entry, place_of
from dream_o.page.runs import CancelledError, Progress

logger = logging.getLogger(__name__)

# Results in the gallery, and how many more each click on its button shows.
SHOWN_RESULTS = 60

PICK = """
element.addEventListener('click', event => {
    const button = event.target.closest('[data-pick]');
    if (button) trigger('pick', {name: button.dataset.pick});
});
"""
"""Triggers the event `pick` with a button's name when somebody clicks it in the page's HTML."""

Jobs = Callable[[], tuple[dict[str, Any], list[Job]]]
"""Checks a form; returns the inputs and the jobs to run."""


@dataclass
class Studio:
    """The column of results.

    Attributes:
        key: the browser's key to its results.
        selected: the name of the result that is shown, or an empty text. The buttons below the
            result act on it, so every update of the stage sets it as well.
        count: how many results the gallery shows at most.
    """

    desk: Desk
    key: gr.BrowserState
    selected: gr.State = field(default_factory=lambda: gr.State(""))
    count: gr.State = field(default_factory=lambda: gr.State(SHOWN_RESULTS))

    def lay_out(self, variations: int) -> None:
        """Makes the components in the current column."""
        self.cancel = gr.Button("Cancel", elem_id="cancel", interactive=False, size="sm")
        self.watch = gr.HTML("", elem_id="watch", js_on_load=PICK)
        self.stage = gr.HTML(markup.EMPTY, elem_id="stage")
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
        self.more = gr.Button("Show more", size="sm", visible=False, elem_id="show-more")

    @property
    def shown(self) -> list[Any]:
        """The components that most methods of this class update; `listing` updates the gallery."""
        return [self.watch, self.stage, self.selected, self.actions, self.cancel, self.sure]

    @property
    def listed(self) -> list[Any]:
        """The components that `listing` updates."""
        return [self.gallery, self.more]

    @property
    def listed_by(self) -> list[Any]:
        """The inputs of `listing`."""
        return [self.key, self.count, self.selected]

    def listing(self, key: str, count: int, selected: str = "") -> dict[Any, Any]:
        """Updates of the gallery: the newest `count` results, and a button if there are more."""
        try:
            older = max(0, len(self.desk.outputs.names(key)) - count)
        except UserError:  # the browser has no valid key yet
            return {self.gallery: gr.skip()}
        newest = self.desk.outputs.newest(key, count)
        return {
            self.gallery: markup.gallery(key, newest, selected),
            self.more: gr.update(value=f"Show more ({older} older)", visible=older > 0),
        }

    def wait(self) -> dict[Any, Any]:
        """Updates after the click; the request waits, and can be cancelled from now on."""
        return {
            self.watch: markup.waiting("Waiting for the requests before this one"),
            self.cancel: gr.update(interactive=True),
        }

    def left_queue(self) -> dict[Any, Any]:
        """Updates when a request was cancelled in the queue."""
        return self._stopped(str(CancelledError()))

    def not_accepted(self) -> dict[Any, Any]:
        """Updates when a request was refused before it began, such as by a full queue."""
        return self._stopped("the request was refused; generate again in a minute")

    def run(self, key: str, prepare: Jobs, tab: str) -> Iterator[dict[Any, Any]]:
        """Runs the jobs and yields updates, which also show errors.

        Args:
            key: the browser's key.
            prepare: returns the inputs and the jobs, or raises UserError.
            tab: the browser's tab, which can cancel the jobs.
        """
        try:
            with self.desk.runs.cancellable(tab) as cancelled:
                yield {
                    self.watch: markup.waiting("Preparing the references and the prompt"),
                    self.cancel: gr.update(interactive=True),
                    **self._nothing(""),
                }
                place_of(key)
                inputs, jobs = prepare()
                make_locked(Path(get_upload_folder()))
                with tempfile.TemporaryDirectory(prefix="held-", dir=get_upload_folder()) as folder:
                    held = [job.with_copies_in(Path(folder)) for job in jobs]
                    yield from self._run(key, inputs, held, cancelled)
        except UserError as error:
            yield self._stopped(str(error))
        except Exception:
            logger.exception("page: a request failed")
            yield self._stopped("the image could not be made; the server's log says why")

    def _stopped(self, problem: str) -> dict[Any, Any]:
        """Updates that show why the request has ended."""
        return {
            self.watch: markup.problem(problem),
            self.cancel: gr.update(interactive=False),
        }

    def _run(
        self, key: str, inputs: dict[str, Any], jobs: Sequence[Job], cancelled: Event
    ) -> Iterator[dict[Any, Any]]:
        made: list[Entry] = []
        output = inputs["output_format"], inputs["output_quality"]
        with closing(self.desk.run(jobs, cancelled)) as events:
            for event in events:
                if isinstance(event, Progress):
                    done = markup.thumbnails(key, made)
                    yield {self.watch: markup.progress(event, len(made) + 1, len(jobs), done)}
                else:
                    references = jobs[len(made)].references
                    made.append(self.desk.outputs.add(key, event, *output, references))
        ended = {self.watch: "", self.cancel: gr.update(interactive=False)}
        if len(made) == 1:
            yield ended | self.show(key, made[0].name)
        else:
            yield ended | {self.watch: markup.side_by_side(key, made)} | self._nothing("")

    def show(self, key: str, name: str) -> dict[Any, Any]:
        """Updates that show one result."""
        try:
            entry = self.desk.outputs.entry(key, name)
        except UserError as error:
            return self._nothing(markup.problem(str(error)))
        return {
            self.stage: markup.result(key, entry),
            self.selected: name,
            self.actions: gr.update(visible=True),
            self.sure: gr.update(visible=False),
        }

    def _nothing(self, words: str) -> dict[Any, Any]:
        """Updates that show a text instead of a result."""
        return {
            self.stage: words,
            self.selected: "",
            self.actions: gr.update(visible=False),
            self.sure: gr.update(visible=False),
        }

    def remove(self, key: str, name: str) -> dict[Any, Any]:
        """Deletes a result; returns updates."""
        try:
            self.desk.outputs.delete(key, name)
        except UserError as error:
            raise alert(error) from error
        # The variations that are shown side by side may include the deleted image.
        return self._nothing(markup.waiting("Deleted.")) | {self.watch: ""}
