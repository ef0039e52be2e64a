"""A whole batch: checks every row, makes what is missing, and writes the results."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from dream_o.batch.checking import Checker
from dream_o.batch.contents import Contents
from dream_o.batch.gallery import write_gallery
from dream_o.batch.identity import identify
from dream_o.batch.intake import BadRowsError, bad_rows_file, take_rows
from dream_o.batch.ledger import FAILED, PENDING, RETRY, Ledger, Outcome, Task
from dream_o.batch.lock import Check, alone
from dream_o.batch.reading import read_combinations, read_object, read_rows, row_of
from dream_o.batch.references import reference_names
from dream_o.batch.results import (
    new_run,
    read_journals,
    read_results,
    unfinished,
    write_results,
)
from dream_o.batch.storage import HIDDEN, Storage, parent_of, temporary_folder_error
from dream_o.batch.worker import MOST_IN_A_FOLDER, Job, Load, Model
from dream_o.errors import UserError
from dream_o.locked_folders import temporary_folder
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, load_predictor
from dream_o.service.backend import backend_name
from dream_o.service.settings import Settings

# What SQLite reports if the disk of the ledger is full or broken.
DISK_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
# The number of outcomes that are written into the ledger together.
RECORDED_TOGETHER = 256


class Engine(Protocol):
    """Makes the images of tasks."""

    def make(self, tasks: Iterable[Task], run: str) -> Iterator[Outcome]:
        """Yields the outcomes of the tasks in any order; `run` names their journals."""

    def close(self) -> None:
        """Releases the model and the machines; may be called twice."""


class ProgressListener(Protocol):
    """Shows the progress of a batch."""

    def start(self, total: int, done: int) -> None:
        """The number of rows, and how many of them are done already."""

    def add(self, outcome: Outcome) -> None:
        """Adds an outcome; the request of one that is not final has another one later."""

    def stop(self) -> None:
        """No more outcomes follow."""


@dataclass(frozen=True)
class Batch:
    """The options of a batch.

    Attributes:
        requests: the file of requests, a path or an address that fsspec opens.
        output: the output folder, a path or an address.
        template: a JSON file with defaults for all rows, or None.
        is_matrix: whether `requests` is a JSON object whose lists are combined.
        skip_bad: go on without the rows that are wrong.
        check_references: open every reference first, and look for faces.
    """

    requests: str
    output: str
    template: str | None = None
    is_matrix: bool = False
    skip_bad: bool = False
    check_references: bool = False


@dataclass(frozen=True)
class Summary:
    """The numbers of rows in a batch.

    Attributes:
        rows: the correct rows of the file.
        skipped: those whose image existed before the run.
        failed: those that failed in this run.
        bad: the wrong rows, which were skipped.
    """

    rows: int
    skipped: int
    failed: int
    bad: int


def run_batch(
    batch: Batch,
    engine_of: Callable[[Job], Engine],
    progress: ProgressListener,
    load: Callable[[int | None], Model] | None = None,
) -> Summary:
    """Checks all rows, makes the images that are missing, and writes `results.parquet`.

    Args:
        batch: the options.
        engine_of: makes the engine.
        progress: shows the progress.
        load: loads the model; None for the bundle of the settings.

    Raises:
        BadRowsError: rows are wrong, and `skip_bad` is not set.
        UserError: a file or folder cannot be used, or the model cannot be loaded.
    """
    identity, settings = identify(Settings.from_environ())
    storage = Storage(batch.output)
    document = openapi_document(type(load_predictor(DEFAULT)))
    with alone(storage) as check, temporary_folder("batch") as folder:
        (folder / "contents").mkdir()
        contents = Contents(folder / "contents", reference_names(document))
        checker = Checker(
            document,
            _template(batch.template, contents),
            parent_of(batch.requests),
            identity,
            settings.references if batch.check_references else None,
            backend_name(settings.references),
        )
        ledger = Ledger(folder / "ledger.sqlite")
        try:
            bad = _read(batch, checker, ledger, storage, contents)
            _add_earlier_results(storage, ledger)
            rows = ledger.rows()
            sharded = rows > MOST_IN_A_FOLDER
            job = Job(load or Load(settings), storage, document, sharded, contents)
            skipped = rows - ledger.remaining()
            failed = 0
            if skipped < rows:
                engine = engine_of(job)
                progress.start(rows, skipped)
                failed = _make(ledger, engine, progress, storage, check)
            write_gallery(storage, ledger.results())
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in DISK_ERRORS:  # the low byte is the primary code
                raise
            raise temporary_folder_error(str(error)) from error
        finally:
            ledger.close()
    return Summary(rows, skipped, failed, bad)


def _template(address: str | None, contents: Contents) -> Mapping[str, Any]:
    if address is None:
        return {}
    row = contents.keep(row_of(0, read_object(address)))
    for name, problem in row.refused.items():
        raise UserError(f"--template: {name}: {problem}")
    return row.values


def _read(
    batch: Batch, checker: Checker, ledger: Ledger, storage: Storage, contents: Contents
) -> int:
    """Checks all rows and adds the good ones to the ledger; returns the number of bad ones."""
    read = read_combinations if batch.is_matrix else read_rows
    with bad_rows_file(storage, contents) if batch.skip_bad else nullcontext() as write:
        rows = map(contents.keep, read(batch.requests))
        mistakes = take_rows(rows, checker, ledger, write or (lambda row: None))
    count = ledger.rows() + mistakes.rows
    if not count:
        raise UserError(f"{batch.requests}: there are no requests in the file")
    if mistakes.rows and not batch.skip_bad:
        raise BadRowsError(mistakes, count)
    return mistakes.rows


def _add_earlier_results(storage: Storage, ledger: Ledger) -> None:
    """Adds the results of earlier runs; first moves those in journals to `results.parquet`."""
    ledger.add_results(read_results(storage))
    ledger.forget(unfinished(storage))
    if HIDDEN in storage.folders():
        write_results(storage, ledger.results())
        storage.remove_folder(HIDDEN)
    ledger.add_files(storage.files())
    for folder in storage.folders():
        ledger.add_files(storage.files(folder))
    ledger.mark_done()


def _make(
    ledger: Ledger, engine: Engine, progress: ProgressListener, storage: Storage, check: Check
) -> int:
    """Makes all tasks and writes the results, even after an error; returns how many failed.

    Raises:
        UserError: the folder is not this batch's any more; then no results are written.
    """
    try:
        try:
            failed = _make_with_retry(ledger, engine, progress)
        finally:
            engine.close()
    except BaseException:
        check()
        # The journals also have images whose outcomes did not reach this process. If the journals
        # cannot be read now, they stay for the next run.
        ledger.add_results(read_journals(storage))
        ledger.forget(unfinished(storage))
        _save_results(ledger, storage)
        raise
    finally:
        progress.stop()
    check()
    _save_results(ledger, storage)
    return failed


def _save_results(ledger: Ledger, storage: Storage) -> None:
    """Writes the results and deletes the journals, which are not needed any more."""
    write_results(storage, ledger.results())
    storage.remove_folder(HIDDEN)


def _make_with_retry(ledger: Ledger, engine: Engine, progress: ProgressListener) -> int:
    """Makes all tasks, and tries failed ones once more; returns how many failed in the end."""
    failed = 0
    waiting: list[Outcome] = []
    run = new_run()
    try:
        for state in (PENDING, RETRY):
            if not ledger.remaining(state):
                continue
            for made in engine.make(ledger.tasks(state), f"{run}-{state == RETRY:d}"):
                outcome = replace(made, is_final=made.is_final or state == RETRY)
                progress.add(outcome)
                ledger.record(outcome)
                waiting.append(outcome)
                if len(waiting) == RECORDED_TOGETHER:
                    ledger.add_results(waiting)
                    waiting.clear()
                failed += outcome.is_final and outcome.status == FAILED
    finally:
        ledger.add_results(waiting)
    lost = ledger.remaining(PENDING) + ledger.remaining(RETRY)
    if lost:
        raise UserError(
            f"{lost} images were not made, and no actor reported why; run the same command again"
        )
    return failed
