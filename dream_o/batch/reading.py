"""Rows of requests from JSON Lines, CSV or Parquet files, one at a time."""

import base64
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from dream_o.batch.storage import open_address
from dream_o.errors import UserError, disk_problem

COMMON = "common"
"""The one key of a JSON Lines file's header."""
NAME = "name"
"""The column that is no input of the predictor."""
PARQUET_ROWS = 256  # read at a time


@dataclass(frozen=True)
class Row:
    """One request as the file has it.

    Attributes:
        line: from 1: the line of a text file, the row of a Parquet file, the number of a
            combination.
        values: the name and the inputs that are given.
        problem: what is wrong with the whole row; empty if it can be read.
        is_text: whether the values are texts that have no types yet, as in CSV.
    """

    line: int
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    is_text: bool = False


def read_rows(address: str) -> Iterator[Row]:
    """The rows of a file, by its suffix: `.jsonl`, `.csv` or `.parquet`.

    A value of null, and an empty cell of a CSV file, count as not given. Bytes of a Parquet file
    become data URLs.

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

    Each key is an input, with one value for all requests or a list of values. A value of the key
    `references` is an object of inputs, such as `{"ref_image1": "mug.png", "ref_task1": "ip"}`. A
    request's name has the place of each value in its list: `prompt1-seed2`.

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
        yield Row(line, {NAME: name} | _given(inputs))


def read_object(address: str) -> dict[str, Any]:
    """A JSON file that holds one object; raises UserError if it does not."""
    with _opened(address) as file:
        try:
            found = json.load(file)
        except ValueError as error:
            raise UserError(f"{address}: this is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{address}: this is not a JSON object; give inputs by name")
    return found


@contextmanager
def _opened(address: str) -> Iterator[BinaryIO]:
    system, path = open_address(address)
    try:
        file = system.open(path, "rb")
    except OSError as error:
        raise UserError(f"{address}: the file cannot be read: {disk_problem(error)}") from error
    with file:
        yield file


def _lines(file: BinaryIO, _: str) -> Iterator[Row]:
    common: dict[str, Any] = {}
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
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
            yield Row(line, _given(common | values))


def _cells(file: BinaryIO, address: str) -> Iterator[Row]:
    reader = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""))
    try:
        if not reader.fieldnames:
            raise UserError(f"{address}: the file is empty; its first line names the columns")
        for cells in reader:
            if None in cells or None in cells.values():
                yield Row(reader.line_num, problem="the row has not as many cells as the first")
                continue
            given = {name: text for name, text in cells.items() if text != ""}
            yield Row(reader.line_num, given, is_text=True)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{address}: this is not a CSV file in UTF-8: {error}") from None


def _records(file: BinaryIO, address: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        line = 0
        for batch in table.iter_batches(batch_size=PARQUET_ROWS):
            for values in batch.to_pylist():
                line += 1
                yield Row(line, _given(values))
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{address}: this is not a Parquet file") from error


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the inputs of `references` beside the others."""
    flat = {name: value for name, value in values.items() if name != "references"}
    references = values.get("references") or {}
    if not isinstance(references, dict):
        raise UserError("references: this is not an object; give inputs such as ref_image1 by name")
    return flat | references


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: as_data_url(value) if isinstance(value, bytes) else value
        for name, value in values.items()
        if value is not None
    }


def as_data_url(content: bytes) -> str:
    """A file's bytes as a data URL."""
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


READERS: dict[str, Callable[[BinaryIO, str], Iterator[Row]]] = {
    "jsonl": _lines,
    "ndjson": _lines,
    "csv": _cells,
    "parquet": _records,
}
