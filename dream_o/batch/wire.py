"""Converts tasks and outcomes to Arrow tables, which Ray sends between machines, and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow
from PIL import Image

from dream_o.batch.ledger import Outcome, Task
from dream_o.batch.worker import Ready
from dream_o.references.prepared import Prepared

READY = pyarrow.schema(
    [
        ("journal", pyarrow.string()),
        ("task", pyarrow.string()),
        # JSON with the slot, task and size of each prepared reference, and their pixels.
        ("prepared", pyarrow.string()),
        ("pixels", pyarrow.list_(pyarrow.large_binary())),
        ("error", pyarrow.string()),
        ("is_final", pyarrow.bool_()),
    ]
)
OUTCOMES = pyarrow.schema([("outcome", pyarrow.string())])


def ready_table(tasks: Sequence[Ready], journal: str) -> pyarrow.Table:
    """The tasks of one journal as a table of READY."""
    return pyarrow.Table.from_pylist([_row(each, journal) for each in tasks], READY)


def tasks_of(table: pyarrow.Table) -> tuple[str, list[Ready]]:
    """The journal and the tasks of a table that `ready_table` made."""
    rows = table.to_pylist()
    return rows[0]["journal"], [_ready(row) for row in rows]


def outcome_table(outcomes: Sequence[Outcome]) -> pyarrow.Table:
    """The outcomes as a table of OUTCOMES."""
    return pyarrow.Table.from_pylist([{"outcome": each.as_json()} for each in outcomes], OUTCOMES)


def outcomes_of(table: pyarrow.Table) -> list[Outcome]:
    """The outcomes of a table that `outcome_table` made."""
    return [Outcome.from_json(text) for text in table.column("outcome").to_pylist()]


def _row(ready: Ready, journal: str) -> dict[str, object]:
    images = ready.prepared
    layout = {name: [each.slot, each.task, *each.after.size] for name, each in images.items()}
    return {
        "journal": journal,
        "task": json.dumps(asdict(ready.task)),
        "prepared": json.dumps(layout),
        "pixels": [each.after.tobytes() for each in images.values()],
        "error": ready.error,
        "is_final": ready.is_final,
    }


def _ready(row: dict[str, Any]) -> Ready:
    prepared = {}
    layout = json.loads(row["prepared"]).items()
    for (name, (slot, task, width, height)), pixels in zip(layout, row["pixels"], strict=True):
        image = Image.frombytes("RGB", (width, height), pixels)
        prepared[name] = Prepared(slot, task, image, image)
    return Ready(Task(**json.loads(row["task"])), prepared, row["error"], row["is_final"])
