"""The requests and results of a batch, in a temporary SQLite file, so that memory stays small."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dream_o.batch.checking import Checked

SUCCEEDED, FAILED = "succeeded", "failed"
# The error of a request whose image a run had begun when the run was killed or interrupted.
UNKNOWN = "the run ended while it made this image; run the same command again"

TABLES = """
CREATE TABLE results (key TEXT PRIMARY KEY, name TEXT, file TEXT, seed TEXT, seconds REAL,
    status TEXT, error TEXT, digest TEXT);
CREATE TABLE files (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE rows (key TEXT PRIMARY KEY, line INTEGER, name TEXT, digest TEXT, shape TEXT,
    inputs TEXT, state TEXT);
"""
PENDING, DONE, RETRY = "pending", "done", "retry"


@dataclass(frozen=True)
class Outcome:
    """The result of a request.

    Attributes:
        name: the request's name.
        digest: the request's digest.
        status: SUCCEEDED or FAILED.
        file: the image's path in the output folder, or None. After a failure, the image of an
            earlier request with this name, which stays until another image replaces it.
        seed: the seed that was used.
        seconds: the time from the request to the written file.
        error: one sentence; empty if the request succeeded.
        is_final: False if another actor may succeed where this one failed.
        stages: seconds by stage.
    """

    name: str
    digest: str
    status: str
    file: str | None = None
    seed: int | None = None
    seconds: float = 0.0
    error: str = ""
    is_final: bool = True
    stages: Mapping[str, float] | None = None

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Outcome":
        """What `as_json` was given; raises ValueError, KeyError or TypeError for other text."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Task:
    """A request whose image is to be made.

    Attributes:
        name: the request's name.
        digest: the request's digest.
        inputs: every input of `predict`.
        replaces: the file of an earlier image with this name, which is deleted after this one is
            written.
    """

    name: str
    digest: str
    inputs: Mapping[str, Any]
    replaces: str | None = None


class Ledger:
    """Every row of the file and every known result, by name.

    Names are compared without regard to case, because names that differ only in case are the same
    file on many disks.

    Args:
        path: the SQLite file; it must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # The file is temporary, so it need not survive a power failure.
        self._database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {TABLES}")

    def close(self) -> None:
        """Closes the file. The ledger cannot be used afterwards."""
        self._database.close()

    def add_results(self, outcomes: Iterable[Outcome]) -> None:
        """Adds results; each replaces an earlier result with the same name."""
        with self._writing():
            self._database.executemany(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        each.name.lower(),
                        each.name,
                        each.file,
                        None if each.seed is None else str(each.seed),
                        each.seconds,
                        each.status,
                        each.error,
                        each.digest,
                    )
                    for each in outcomes
                ),
            )

    def forget(self, names: Iterable[str]) -> None:
        """Marks these results as failed with UNKNOWN; keeps their files, to replace them later."""
        with self._writing():
            self._database.executemany(
                "UPDATE results SET digest = '', status = ?, error = ? WHERE key = ?",
                ((FAILED, UNKNOWN, each.lower()) for each in names),
            )

    def add_files(self, paths: Iterable[str]) -> None:
        """Adds the images that are in the output folder."""
        with self._writing():
            self._database.executemany(
                "INSERT OR IGNORE INTO files VALUES (?)", ((each,) for each in paths)
            )

    def add_rows(self, rows: Iterable[Checked]) -> Iterator[tuple[Checked, int]]:
        """Adds correct rows.

        Yields:
            Each row whose name is already taken, with the line of the row that has the name.
        """
        with self._writing():
            for row in rows:
                key = row.name.lower()
                try:
                    self._database.execute(
                        "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (
                            key,
                            row.line,
                            row.name,
                            row.digest,
                            row.order,
                            json.dumps(dict(row.inputs)),
                            PENDING,
                        ),
                    )
                except sqlite3.IntegrityError:
                    yield row, self._one("SELECT line FROM rows WHERE key = ?", key)

    def mark_done(self) -> None:
        """Marks each row as done whose image exists and whose result has the row's digest."""
        self._database.execute(
            "UPDATE rows SET state = ? WHERE key IN (SELECT r.key FROM results r "
            "JOIN files f ON f.path = r.file JOIN rows w ON w.key = r.key "
            "WHERE r.status = ? AND r.digest = w.digest)",
            (DONE, SUCCEEDED),
        )

    def rows(self) -> int:
        """The number of rows."""
        return self._one("SELECT count(*) FROM rows")

    def remaining(self, state: str = PENDING) -> int:
        """The number of rows in this state."""
        return self._one("SELECT count(*) FROM rows WHERE state = ?", state)

    def tasks(self, state: str = PENDING) -> Iterator[Task]:
        """The rows in this state, sorted by shape, references and prompt."""
        found = self._database.execute(
            "SELECT w.name, w.digest, w.inputs, r.file FROM rows w "
            "LEFT JOIN results r ON r.key = w.key WHERE w.state = ? ORDER BY w.shape, w.line",
            (state,),
        )
        for name, digest, inputs, file in found:
            yield Task(name, digest, json.loads(inputs), file)

    def record(self, outcome: Outcome) -> None:
        """Marks the row of a result as done, or as to be tried again if the result is not final."""
        state = DONE if outcome.is_final else RETRY
        self._database.execute(
            "UPDATE rows SET state = ? WHERE key = ?", (state, outcome.name.lower())
        )

    def results(self) -> Iterator[Outcome]:
        """All results: those of this file in its order, then those of earlier files by name."""
        found = self._database.execute(
            "SELECT r.name, r.digest, r.status, r.file, r.seed, r.seconds, r.error FROM results r "
            "LEFT JOIN rows w ON w.key = r.key ORDER BY w.line IS NULL, w.line, r.name"
        )
        for name, digest, status, file, seed, seconds, error in found:
            yield Outcome(
                name, digest, status, file, None if seed is None else int(seed), seconds, error
            )

    def _one(self, query: str, *values: object) -> int:
        number: int = self._database.execute(query, values).fetchone()[0]
        return number

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Writes everything that the block inserts in one transaction."""
        self._database.execute("BEGIN")
        try:
            yield
        finally:
            if self._database.in_transaction:  # a full disk ends it
                self._database.execute("COMMIT")
