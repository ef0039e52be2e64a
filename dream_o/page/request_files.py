"""Keeps the files of a request until it has ended.

Gradio deletes uploads after some time, and a user may delete a result whose references another
request uses. Without this module, a waiting or running request would lose its references.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dream_o.errors import InputError, disk_problem
from dream_o.library_internals import queued_inputs
from dream_o.service.request import Reference


class QueuedFiles:
    """The paths of all files in the inputs of waiting and running events.

    Gradio's cleanup keeps the files in the `keep_in_cache` of a page's components. An instance
    replaces that set in one component. Each iteration reads the paths from the queue, so no path
    must be removed when an event ends.

    Args:
        page: a `gr.Blocks` with a queue.
    """

    def __init__(self, page: Any) -> None:
        self.page = page

    def __iter__(self) -> Iterator[str]:
        for inputs in queued_inputs(self.page):
            yield from _paths(inputs)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _paths(each)


def copy_references(references: Sequence[Reference], folder: Path) -> tuple[Reference, ...]:
    """Copies the files of references to `folder`.

    Raises:
        InputError: a file is gone, or the copy cannot be written; names the slot.
    """
    return tuple(
        Reference(_copy(slot, Path(each.file), folder), each.task) if each.file else each
        for slot, each in enumerate(references, start=1)
    )


def _copy(slot: int, file: Path, folder: Path) -> Path:
    # The copy keeps the suffix, because the reference that is stored with the result gets it.
    copy = folder / f"{slot}{file.suffix}"
    try:
        if not copy.is_file():
            shutil.copyfile(file, copy)
    except FileNotFoundError:
        raise InputError(f"ref_image{slot}", "was deleted; add the image again") from None
    except OSError as error:
        raise InputError(f"ref_image{slot}", f"cannot be kept: {disk_problem(error)}") from error
    return copy
