"""Adds the correct rows of a file to the ledger, and collects the mistakes in the others."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from dream_o.batch.checking import Checked, Checker
from dream_o.batch.contents import Contents
from dream_o.batch.ledger import Ledger
from dream_o.batch.reading import Row
from dream_o.batch.storage import Storage
from dream_o.errors import UserError

BAD_ROWS = "failed.jsonl"
# The maximum number of sentences about bad rows that are shown.
SHOWN = 1000


@dataclass
class Mistakes:
    """The number of bad rows, and sentences about the first ones."""

    rows: int = 0
    sentences: list[str] = field(default_factory=list)

    def add(self, row: Checked) -> None:
        """Adds the problems of a row; only the first SHOWN sentences are kept."""
        self.rows += 1
        room = SHOWN - len(self.sentences)
        self.sentences += [f"line {row.line}: {each}" for each in row.problems[: max(0, room)]]


class BadRowsError(UserError):
    """Rows are wrong; each of `sentences` names a line, what is wrong, and what is allowed."""

    def __init__(self, mistakes: Mistakes, rows: int) -> None:
        super().__init__(
            f"{mistakes.rows} of {rows} rows are wrong, and no image was made; correct them, or "
            "add --skip-bad to go on without them"
        )
        self.sentences = mistakes.sentences


def take_rows(
    rows: Iterable[Row], checker: Checker, ledger: Ledger, write: Callable[[Checked], None]
) -> Mistakes:
    """Checks all rows and adds the good ones to the ledger; returns what is wrong with the others.

    Args:
        rows: the rows of the file.
        checker: checks each row.
        ledger: where the good rows go.
        write: is called with each bad row.
    """
    mistakes = Mistakes()

    def bad(row: Checked) -> None:
        mistakes.add(row)
        write(row)

    def good() -> Iterator[Checked]:
        for row in checker.check_all(rows):
            if row.problems:
                bad(row)
            else:
                yield row

    for row, line in ledger.add_rows(good()):
        taken = (
            f"name: {row.name!r} is also the name of line {line}; give each request a name of its "
            "own"
        )
        bad(replace(row, problems=(taken,)))
    return mistakes


@contextmanager
def bad_rows_file(storage: Storage, contents: Contents) -> Iterator[Callable[[Checked], None]]:
    """Yields a function that writes a bad row to `failed.jsonl`; the file appears at the end."""
    with storage.writing(BAD_ROWS) as file:

        def write(row: Checked) -> None:
            record = {
                "line": row.line,
                "name": row.name,
                "errors": list(row.problems),
                "request": contents.with_data_urls(row.given or row.inputs),
            }
            file.write(json.dumps(record).encode() + b"\n")

        yield write
