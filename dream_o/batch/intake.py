"""Takes the rows of a file into the ledger, and keeps account of those that are wrong."""

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
# Sentences about bad rows that are shown; the others are counted.
SHOWN = 1000


@dataclass
class Mistakes:
    """What is wrong with the rows of a file."""

    rows: int = 0
    sentences: list[str] = field(default_factory=list)

    def add(self, row: Checked) -> None:
        """Adds a row's problems; only the first SHOWN sentences of all rows are kept."""
        self.rows += 1
        room = SHOWN - len(self.sentences)
        self.sentences += [f"line {row.line}: {each}" for each in row.problems[: max(0, room)]]


class BadRowsError(UserError):
    """Rows are wrong; `sentences` says which, where, and what is allowed."""

    def __init__(self, mistakes: Mistakes, rows: int) -> None:
        super().__init__(
            f"{mistakes.rows} of {rows} rows are wrong, and nothing was made; mend them, or add "
            f"--skip-bad to go on without them"
        )
        self.sentences = mistakes.sentences


def take_rows(
    rows: Iterable[Row], checker: Checker, ledger: Ledger, write: Callable[[Checked], None]
) -> Mistakes:
    """Checks all rows and adds the good ones to the ledger; returns what is wrong with the others.

    Args:
        rows: the rows of the file.
        checker: checks them.
        ledger: takes the good ones.
        write: takes each bad one.
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
        taken = f"name: {row.name!r} is the name of line {line} too; give each request its own"
        bad(replace(row, problems=(taken,)))
    return mistakes


@contextmanager
def bad_rows_file(storage: Storage, contents: Contents) -> Iterator[Callable[[Checked], None]]:
    """What writes a bad row into `failed.jsonl`, which appears when the block ends."""
    with storage.writing(BAD_ROWS) as file:

        def write(row: Checked) -> None:
            told = {
                "line": row.line,
                "name": row.name,
                "errors": list(row.problems),
                "request": contents.given(row.given or row.inputs),
            }
            file.write(json.dumps(told).encode() + b"\n")

        yield write
