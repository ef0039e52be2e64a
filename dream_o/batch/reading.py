"""Rows of requests from JSON Lines, CSV or Parquet files, one at a time."""

import csv
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from dream_o.batch.storage import open_address, scheme_of
from dream_o.batch.trying import keep_trying, problem_of
from dream_o.errors import UserError
from dream_o.locked_folders import temporary_folder

COMMON = "common"
"""The only key of the header of a JSON Lines file."""
NAME = "name"
"""The only column that is not an input of the predictor."""
# The rows of a Parquet file, and the bytes of a column, that are read at a time. There are few,
# because rows can contain images.
PARQUET_ROWS, PARQUET_BYTES = 16, 1 << 20
# A cell of a CSV file may be a data URL, but by default the csv module refuses more than 131,072
# characters.
MOST_IN_A_CELL = 2**31 - 1
# What is wrong with a value that no input accepts.
LIST = "a list or an object is not allowed; give one value"
TIME = "a date or a time is not allowed; give a text or a number"
INFINITE = "the number is not finite; give another or leave it out"


@dataclass(frozen=True)
class Row:
    """One request, with the values in the file.

    Attributes:
        line: the line of a text file, the row of a Parquet file, or the number of a combination,
            counted from 1.
        values: the name and the inputs that are given.
        problem: what is wrong with the whole row; empty if it can be read.
        is_text: whether the values are texts without a type, as in CSV.
        refused: by name, what is wrong with values that no input accepts; they are not in `values`.
    """

    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    is_text: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Unusable:
    """Stands for a value that cannot be read; `problem` says why."""

    problem: str


def row_of(line: int, given: Mapping[str, Any]) -> Row:
    """Makes a row of a file's values, without null and NaN, the missing value of pandas."""
    values, refused = {}, {}
    for name, value in given.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        problem = _problem(value)
        if problem:
            refused[name] = problem
        else:
            values[name] = _number(value) if isinstance(value, Decimal) else value
    return Row(line, values, refused=refused)


def _problem(value: Any) -> str:
    if isinstance(value, Unusable):
        return value.problem
    if isinstance(value, (list, dict)):
        return LIST
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        return INFINITE
    return ""


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


def read_rows(address: str) -> Iterator[Row]:
    """The rows of a file, by its suffix: `.jsonl`, `.csv` or `.parquet`.

    Null, NaN and an empty cell of a CSV file count as values that are not given.

    Args:
        address: a path of this machine, or an address that fsspec opens.

    Raises:
        UserError: the file cannot be read, or has another suffix.
    """
    suffix = address.rpartition(".")[2].lower()
    if suffix not in READERS:
        allowed = ", ".join(f".{each}" for each in READERS)
        raise UserError(f"{address}: the suffix is not one of {allowed}; use one of them")
    with _opened(address) as file:
        yield from READERS[suffix](file, address)


def read_combinations(address: str) -> Iterator[Row]:
    """Every combination of the lists in a JSON object.

    Each key is an input, with one value for all requests or a list of values. The key
    `references` has objects with inputs, such as `{"ref_image1": "mug.png", "ref_task1": "ip"}`. A
    request's name has the position of each value in its list: `prompt1-seed2`.

    Raises:
        UserError: the file cannot be read or is not an object, or a list is empty.
    """
    grid = read_object(address)
    axes = {name: values for name, values in grid.items() if isinstance(values, list)}
    common = {name: value for name, value in grid.items() if name not in axes}
    for name, values in axes.items():
        if not values:
            raise UserError(f"{address}: the list of {name} is empty; give it at least one value")
    if not axes:
        raise UserError(f"{address}: there is no list; give at least one input as a list of values")
    numbered = [list(enumerate(values, start=1)) for values in axes.values()]
    for line, chosen in enumerate(itertools.product(*numbered), start=1):
        pairs = list(zip(axes, chosen, strict=True))
        name = "-".join(f"{axis}{number}" for axis, (number, _) in pairs)
        inputs = _flat(common | {axis: value for axis, (_, value) in pairs})
        yield row_of(line, {NAME: name} | inputs)


def read_object(address: str) -> dict[str, Any]:
    """Reads a JSON file that contains one object; raises UserError if it does not."""
    with _opened(address) as file:
        try:
            found = _json(file.read())
        except ValueError as error:
            raise UserError(f"{address}: this is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{address}: this is not a JSON object; give inputs by name")
    return found


@contextmanager
def _opened(address: str) -> Iterator[BinaryIO]:
    """Opens a file for reading; a file on another machine is first copied to this one."""
    system, path = open_address(address)
    problem = f"{address}: the file cannot be read"
    with temporary_folder("requests") as folder:
        if scheme_of(address):
            copy = str(folder / "requests")
            try:
                keep_trying(lambda: system.get_file(path, copy))
            except Exception as error:
                raise UserError(f"{problem}: {problem_of(error)}") from error
            path = copy
        try:
            with Path(path).open("rb") as file:
                yield file
        except OSError as error:
            raise UserError(f"{problem}: {problem_of(error)}") from error


def _json(text: str | bytes) -> Any:
    """Parses JSON; raises ValueError for any text that is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed; leave the input out or give null")


def _lines(file: BinaryIO, _: str) -> Iterator[Row]:
    common: dict[str, Any] = {}
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            values = _json(text)
        except ValueError as error:
            yield Row(line, problem=f"this is not JSON: {error}")
            continue
        if not isinstance(values, dict):
            yield Row(line, problem="this is not a JSON object; give inputs by name")
        elif values.keys() == {COMMON} and line == 1:
            if not isinstance(values[COMMON], dict):
                raise UserError(f"line 1: {COMMON} is not an object; give inputs by name")
            common = values[COMMON]
        else:
            yield row_of(line, common | {k: v for k, v in values.items() if v is not None})


def _cells(file: BinaryIO, address: str) -> Iterator[Row]:
    before = csv.field_size_limit(MOST_IN_A_CELL)
    reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    try:
        names = reader.fieldnames
        if not names:
            raise UserError(f"{address}: the file is empty; its first line names the columns")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{address}: the column {name!r} occurs twice; remove one")
        for cells in reader:
            if None in cells or None in cells.values():
                yield Row(
                    reader.line_num, problem="the row does not have as many cells as the header"
                )
                continue
            given = {name: text for name, text in cells.items() if text != ""}
            yield Row(reader.line_num, given, is_text=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{address}: this is not a CSV file in UTF-8: {error}") from None
    finally:
        csv.field_size_limit(before)


def _records(file: BinaryIO, address: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    line = 0
    try:
        table = pyarrow.parquet.ParquetFile(file, buffer_size=PARQUET_BYTES, pre_buffer=False)
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            names = batch.schema.names
            for values in zip(*map(_values, batch.columns), strict=True):
                line += 1
                yield row_of(line, dict(zip(names, values, strict=True)))
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{address}: this Parquet file cannot be read: {reason}") from error


def _values(column: Any) -> list[Any]:
    """A column's values, with Unusable for dates, times, lists and objects.

    pyarrow cannot convert some of them to Python, such as a time with nanoseconds.
    """
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    problem = TIME if types.is_temporal(kind) else LIST if types.is_nested(kind) else ""
    if not problem:
        values: list[Any] = column.to_pylist()
        return values
    return [Unusable(problem) if there else None for there in column.is_valid().to_pylist()]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the inputs in `references` into the others."""
    flat = {name: value for name, value in values.items() if name != "references"}
    references = values.get("references") or {}
    if not isinstance(references, dict):
        raise UserError("references: this is not an object; give inputs such as ref_image1 by name")
    return flat | references


READERS: dict[str, Callable[[BinaryIO, str], Iterator[Row]]] = {
    "jsonl": _lines,
    "ndjson": _lines,
    "csv": _cells,
    "parquet": _records,
}
