"""Rows of examples: what each fills into the form, and what comes out."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from dream_o.images.opening import on_white, open_image
from dream_o.page import markup
from dream_o.paths import SHIPPED

EXAMPLES = Path(__file__).with_name("examples.toml")
# The longer side of an image in a row, in pixels.
SIDE = 96


@dataclass(frozen=True)
class Example:
    """A row.

    Attributes:
        number: its place in the table.
        task: the task that it shows.
        inputs: inputs by name.
        references: an image's file and its task, by slot.
        output: what comes out, drawn by the miniature; None if that is not known.
    """

    number: int
    task: str
    inputs: Mapping[str, Any]
    references: tuple[tuple[Path, str], ...]
    output: Path | None


@cache
def examples_of(miniature: bool) -> tuple[Example, ...]:
    """The examples of `examples.toml` for the miniature, or for a real model."""
    rows = tomllib.loads(EXAMPLES.read_text(encoding="utf-8"))
    return tuple(
        Example(
            number,
            row["task"],
            row["inputs"],
            tuple((SHIPPED / file, task) for file, task in row.get("references", ())),
            SHIPPED / row["output"] if "output" in row else None,
        )
        for number, row in enumerate(rows["miniature" if miniature else "model"])
    )


def example_row(example: Example) -> str:
    """A row as a button: task, references, prompt, and what comes out."""
    images = "".join(_image(file, "reference") for file, _ in example.references)
    output = f"<span>→</span>{_image(example.output, 'result')}" if example.output else ""
    return (
        f'<button type="button" class="example" data-pick="{example.number}">'
        f"<b>{escape(example.task)}</b>{images}<q>{escape(str(example.inputs['prompt']))}</q>"
        f"{output}</button>"
    )


def _image(file: Path, alt: str) -> str:
    small = on_white(open_image(file, "example"))
    small.thumbnail((SIDE, SIDE))
    return f'<img src="{markup.data_url(small)}" alt="{alt}">'
