"""Checks all rows by the schema and the rules of a single request, before any image is made."""

import hashlib
import itertools
import json
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from dream_o.batch.reading import NAME, Row
from dream_o.batch.references import (
    REMEMBERED,
    as_files,
    content_digest,
    reference_names,
    resolve,
)
from dream_o.errors import BundleError, InputError, SettingError, UserError
from dream_o.server.inputs import problems, resolved, type_input
from dream_o.service.checks import check_references, input_problems, request_of
from dream_o.service.logs import silence
from dream_o.service.request import Request, has_negative_pass

# Such a name is a valid file name on every system.
NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}"
# A request must not have the name of the contact sheet, which has the suffix of an image too.
SHEET_NAME = "contact-sheet"
# Rows that a process checks at a time, and the same if it opens their references. Shorter files are
# checked in this process, because starting another one takes a second.
CHUNK, OPENING_CHUNK = 512, 16
# The Python type of each number type of the schema. pandas writes a column of integers with missing
# values as floats.
NUMBERS = {"integer": int, "number": float}

# The problem that this process found with a row's references (empty if there is none), so that
# references that many rows share are opened once.
_found: dict[str, str] = {}


@dataclass(frozen=True)
class Checked:
    """A row after its check.

    Attributes:
        line: the row's line.
        name: its name; may be empty if there are problems.
        inputs: every input of `predict`; references are absolute paths, URLs or data URLs.
        digest: hexadecimal SHA-256 of the inputs, the contents of the references, the bundle and
            the settings.
        order: a sort key; rows with the same key have the same shapes, references and prompts.
        problems: what is wrong, one sentence for each problem; empty for a correct row.
        given: the values in the file, if the row has problems.
    """

    line: int
    name: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    order: str = ""
    problems: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checker:
    """Checks a row without a model.

    Attributes:
        document: the predictor's OpenAPI document.
        template: the defaults of all rows.
        folder: the folder of the file of requests, to which paths of references are relative.
        identity: identifies the bundle and the settings that change its images.
        backend: DREAM_O_REFERENCES, to open every reference and look for faces; None to skip this.
        prepared_by: the name of the backend that prepares references.
    """

    document: Mapping[str, Any]
    template: Mapping[str, Any]
    folder: str
    identity: str
    backend: str | None = None
    prepared_by: str = ""

    def check(self, row: Row) -> Checked:
        """Checks one row; the result has its inputs, or all its problems."""
        checked = self._checked(row)
        return replace(checked, given=row.values) if checked.problems else checked

    def _checked(self, row: Row) -> Checked:
        if row.problem:
            return Checked(row.line, problems=(row.problem,))
        wrong = [f"{name}: {problem}" for name, problem in row.refused.items()]
        refused = set(row.refused)
        values: dict[str, Any] = {k: v for k, v in self.template.items() if k not in refused}
        for name, value in row.values.items():
            try:
                typed = row.is_text and name != NAME
                values[name] = type_input(name, value, self.document) if typed else value
            except UserError as error:
                wrong.append(str(error))
                refused.add(name)
                values.pop(name, None)
        name = values.pop(NAME, None)
        if NAME not in refused:
            wrong += _name_problems(name)
        wrong += [
            str(each)
            for each in problems(values, self.document)
            if getattr(each, "name", None) not in refused
        ]
        if not wrong:
            try:
                return self._request(
                    row.line, str(name), self._defaults() | self._with_schema_numbers(values)
                )
            except (SettingError, BundleError):
                raise
            except UserError as error:
                wrong.append(str(error))
        return Checked(row.line, name if isinstance(name, str) else "", problems=tuple(wrong))

    def _with_schema_numbers(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Converts numbers to the types of the schema, such as 768.0 to 768 or 4 to 4.0."""
        properties = self.document["components"]["schemas"]["Input"]["properties"]
        typed = dict(values)
        for name, value in values.items():
            number = NUMBERS.get(resolved(properties[name], self.document).get("type", ""))
            if number is not None and isinstance(value, (int, float)):
                typed[name] = number(value)
        return typed

    def _defaults(self) -> dict[str, Any]:
        properties = self.document["components"]["schemas"]["Input"]["properties"]
        return {name: each.get("default") for name, each in properties.items()}

    def _request(self, line: int, name: str, inputs: dict[str, Any]) -> Checked:
        contents = {}
        files: dict[str, Any] = {}
        wrong = []
        for each in reference_names(self.document):
            files[each] = None
            if inputs[each] is None:
                continue
            try:
                inputs[each] = resolve(each, inputs[each], self.folder)
                contents[each] = content_digest(each, inputs[each])
                files[each] = PurePath(each)
            except InputError as error:
                wrong.append(str(error))
        request = request_of(inputs | files)
        wrong += map(str, input_problems(request))
        if self.backend is not None and contents and not wrong:
            wrong += self._reference_problems(inputs, contents, self.backend)
        if wrong:
            return Checked(line, name, problems=tuple(wrong))
        made_with = [self.identity, self.prepared_by] if contents else [self.identity]
        text = json.dumps([made_with, inputs | contents], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Checked(line, name, inputs, digest, _order(request, contents))

    def _reference_problems(
        self, inputs: Mapping[str, Any], contents: Mapping[str, str], backend: str
    ) -> list[str]:
        uses = {name: value for name, value in inputs.items() if name.startswith("ref_")}
        key = json.dumps([backend, {**uses, **contents}], sort_keys=True)
        if key not in _found:
            if len(_found) == REMEMBERED:
                _found.clear()
            _found[key] = ""
            try:
                with silence(), as_files(inputs, self.document) as opened:
                    check_references(request_of(opened), backend)
            except InputError as error:
                _found[key] = str(error)
            except UserError:
                del _found[key]
                raise
        return [_found[key]] if _found[key] else []

    def check_all(self, rows: Iterable[Row]) -> Iterator[Checked]:
        """Checks the rows and yields them in their order; many rows are checked on all cores."""
        chunks = _chunks(rows, CHUNK if self.backend is None else OPENING_CHUNK)
        first = list(itertools.islice(chunks, 2))
        cores = os.cpu_count() or 1
        if len(first) < 2 or cores == 1:
            for chunk in itertools.chain(first, chunks):
                yield from self._check_chunk(chunk)
            return
        # A fork of a process with threads, which Ray and torch start, can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(cores, context) as pool:
            waiting: deque[Future[list[Checked]]] = deque()
            for chunk in itertools.chain(first, chunks):
                waiting.append(pool.submit(self._check_chunk, chunk))
                if len(waiting) > 2 * cores:
                    yield from waiting.popleft().result()
            for each in waiting:
                yield from each.result()

    def _check_chunk(self, rows: list[Row]) -> list[Checked]:
        try:
            return [self.check(row) for row in rows]
        except UserError as error:
            # Subclasses cannot all be pickled, which sending an error to another process needs.
            raise UserError(str(error)) from None


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _name_problems(name: Any) -> list[str]:
    if name is None:
        return ["name: is required; give each request a name, after which its file is named"]
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        return [
            f"name: {str(name)[:80]!r} is not allowed; use 1 to 120 letters, digits and _ . + - "
            "that start with a letter, a digit or _"
        ]
    if name.lower() == SHEET_NAME:
        return [f"name: {SHEET_NAME} is the name of the contact sheet; use another"]
    return []


def _order(request: Request, contents: Mapping[str, str]) -> str:
    shape = [
        request.height,
        request.width,
        has_negative_pass(request),
        len(contents),
        [each.task for each in request.references if each.image is not None],
        request.ref_res,
        request.num_steps,
    ]
    return json.dumps([shape, sorted(contents.values()), request.prompt, request.neg_prompt])
