"""`results.parquet`, and the journals that record images until that file is written.

A worker records each image in a journal, a small file for a few requests, as soon as the image is
written. So a killed process loses only the images that it was making.
"""

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow
import pyarrow.parquet

from dream_o.batch.ledger import FAILED, Outcome
from dream_o.batch.storage import HIDDEN, Storage, StorageError
from dream_o.batch.trying import problem_of
from dream_o.errors import UserError

RESULTS = "results.parquet"
DONE = f"{HIDDEN}/done"
PLANS = f"{HIDDEN}/plans"
ROWS = 4096  # the rows of a Parquet file that are in memory at a time
# A request that was begun so often without a result is not made again: it kills its worker.
MOST_BEGINNINGS = 2
KILLS = (
    "the process that made this image ended twice without an answer; use a smaller width, height "
    "or ref_res, or a device with more memory"
)

SCHEMA = pyarrow.schema(
    [
        ("name", pyarrow.string()),
        ("file", pyarrow.string()),
        ("seed", pyarrow.uint64()),
        ("seconds", pyarrow.float64()),
        ("status", pyarrow.string()),
        ("error", pyarrow.string()),
        ("digest", pyarrow.string()),
    ]
)

# Columns in which an empty text is written as null.
MAY_BE_NULL = ("error", "digest")


def write_results(storage: Storage, outcomes: Iterable[Outcome]) -> None:
    """Writes `results.parquet`; raises UserError if it cannot be written."""
    with (
        storage.writing(RESULTS) as file,
        pyarrow.parquet.ParquetWriter(file, SCHEMA) as writer,
    ):
        rows: list[dict[str, object]] = []
        for each in outcomes:
            rows.append({name: getattr(each, name) or None for name in SCHEMA.names})
            rows[-1] |= {"seed": each.seed, "seconds": round(each.seconds, 3)}
            if len(rows) == ROWS:
                writer.write_table(pyarrow.Table.from_pylist(rows, SCHEMA))
                rows.clear()
        writer.write_table(pyarrow.Table.from_pylist(rows, SCHEMA))


def read_results(storage: Storage) -> Iterator[Outcome]:
    """The results of earlier runs; those from journals of killed runs come last.

    Raises:
        UserError: another program wrote `results.parquet`, or it cannot be read.
    """
    if RESULTS in storage.files():
        with storage.opened(RESULTS) as file:
            try:
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=ROWS):
                    for row in batch.to_pylist():
                        yield Outcome(**row | {name: row[name] or "" for name in MAY_BE_NULL})
            except (pyarrow.ArrowInvalid, TypeError, KeyError) as error:
                raise UserError(
                    f"{RESULTS} in the output folder is not of this command; use another folder"
                ) from error
            except OSError as error:
                raise StorageError(
                    f"{RESULTS} in the output folder cannot be read: {problem_of(error)}; run the "
                    "command again, or use another folder"
                ) from error
    yield from read_journals(storage)


def read_journals(storage: Storage) -> Iterator[Outcome]:
    """The results in the journals of runs that were killed or interrupted; retries come last."""
    for journal in _journals(storage):
        yield from journal.outcomes.values()


def unfinished(storage: Storage) -> Iterator[str]:
    """The requests in these journals whose image was begun and not recorded, by name.

    The file may be the new image or an earlier one, so the result is unknown.
    """
    for journal in _journals(storage):
        yield from journal.begun.keys() - journal.outcomes.keys()


def _journals(storage: Storage) -> "Iterator[Journal]":
    for path in sorted(storage.files(DONE)):
        name = path.rpartition("/")[2]
        if name.startswith(".") or not name.endswith(".json"):
            continue  # a file that a killed worker had not finished
        try:
            yield Journal(storage, path)
        except (ValueError, LookupError, TypeError):
            continue  # damaged by a power failure; its images are made again


@dataclass
class Journal:
    """A record of a few requests: which were begun, and which have a result.

    Attributes:
        storage: the output folder.
        path: the path of the journal in the output folder.
        outcomes: the results by name.
        begun: by name, how often each request was begun.
    """

    storage: Storage
    path: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        content = self.storage.read(self.path)
        if content:
            known = json.loads(content)
            self.begun = known["begun"]
            self.outcomes = {each["name"]: Outcome(**each) for each in known["outcomes"]}

    def begin(self, name: str, digest: str, earlier: str | None = None) -> Outcome | None:
        """Records that a request is begun.

        Args:
            name: the request's name.
            digest: the request's digest.
            earlier: the file of an earlier image with this name.

        Returns:
            The request's result if there is one already, or if the request kills its worker;
            otherwise None, and the image is to be made.
        """
        if name not in self.outcomes:
            self.begun[name] = self.begun.get(name, 0) + 1
            if self.begun[name] > MOST_BEGINNINGS:
                self.record(Outcome(name, digest, FAILED, earlier, error=KILLS))
        if name in self.outcomes:
            return self.outcomes[name]
        self.write()
        return None

    def record(self, outcome: Outcome) -> None:
        """Keeps a result, which the next `begin` or `write` writes to the file."""
        self.outcomes[outcome.name] = outcome

    def write(self) -> None:
        """Writes the file."""
        content = {
            "begun": self.begun,
            "outcomes": [json.loads(each.as_json()) for each in self.outcomes.values()],
        }
        self.storage.write(self.path, json.dumps(content).encode())


def new_run() -> str:
    """A random name for a run, so that workers of an earlier run cannot write into its journals."""
    return secrets.token_hex(4)
