"""Parses and checks `name=value` inputs by the same schema as the server."""

import base64
import difflib
import math
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import cog
import jsonschema

from dream_o.errors import InputError, UserError

MAX_DOWNLOAD_BYTES = 100_000_000
TIMEOUT_SECONDS = 30.0
# Characters of a name or value that an error repeats.
MAX_SHOWN = 80
URL_SCHEMES = ("http", "https", "data")
FROM_ENVIRONMENT = "@env:"

# The words that `cog predict` accepts for true and false.
YES = ("1", "t", "T", "TRUE", "true", "True")
NO = ("0", "f", "F", "FALSE", "false", "False")


def parse_inputs(assignments: Iterable[str], document: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `name=value` assignments, with the types of the document's Input schema.

    Files stay as given, `@path` or a URL; `open_files` opens them.

    Raises:
        UserError: an assignment has no name or an unknown one.
        InputError: the schema does not allow a value, or a required input is missing.
    """
    return type_inputs(map(_assignment, assignments), document)


def _assignment(assignment: str) -> tuple[str, str]:
    name, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(f"-i {assignment}: give name=value")
    return name, text


def type_inputs(assigned: Iterable[tuple[str, str]], document: Mapping[str, Any]) -> dict[str, Any]:
    """Like `parse_inputs`, for pairs of name and text."""
    values: dict[str, Any] = {}
    for name, text in assigned:
        if name in values:
            raise InputError(name, "is given twice; give it once")
        values[name] = type_input(name, text, document)
    for problem in problems(values, document):
        raise problem
    return values


def type_input(name: str, text: str, document: Mapping[str, Any]) -> Any:
    """The value of an input that is written as text, with the type of the document's schema.

    Raises:
        UserError: there is no such input.
        InputError: the text is not of the input's type.
    """
    properties = document["components"]["schemas"]["Input"]["properties"]
    if name not in properties:
        raise UserError(_unknown(name, list(properties)))
    return _typed(name, text, resolved(properties[name], document))


def problems(values: Mapping[str, Any], document: Mapping[str, Any]) -> list[UserError]:
    """What the document's Input schema does not allow: unknown names, then the schema's order.

    Args:
        values: inputs by name; files are texts, as in the JSON of a request.
        document: the predictor's OpenAPI document.
    """
    order = list(document["components"]["schemas"]["Input"]["properties"])
    unknown = [UserError(_unknown(name, order)) for name in values if name not in order]
    schema = {"$ref": "#/components/schemas/Input", "components": document["components"]}
    found: dict[str, str] = {}
    for error in jsonschema.Draft202012Validator(schema).iter_errors(dict(values)):
        if error.validator == "required":
            # jsonschema gives one error per missing name, but only its message has the name.
            missing = next(
                name for name in error.validator_value if name not in found and name not in values
            )
            found[missing] = "is required"
        else:
            name = str(error.path[0])
            found[name] = _problem(error, resolved(error.schema, document))
    return [*unknown, *(InputError(name, found[name]) for name in sorted(found, key=order.index))]


def open_files(
    values: Mapping[str, Any], document: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """The values with files and secrets in the types that `predict` gets from the Cog server.

    Args:
        values: the result of `parse_inputs`.
        document: the document that `parse_inputs` was given.
        folder: where downloads go; the caller removes it.

    Raises:
        InputError: a file or variable does not exist, or a download fails or is larger than
            MAX_DOWNLOAD_BYTES.
    """
    properties = document["components"]["schemas"]["Input"]["properties"]
    opened = {}
    for name, value in values.items():
        opened[name] = value
        if properties[name].get("format") == "uri":
            opened[name] = open_file(name, value, folder)
        elif properties[name].get("format") == "password":
            opened[name] = cog.Secret(_secret(name, value))
    return opened


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name[:MAX_SHOWN], known, n=len(known))
    # Of equally close names, suggest the first: ref_image1 before ref_image2.
    near.sort(key=known.index)
    likeness = difflib.SequenceMatcher(b=name[:MAX_SHOWN])
    best = max(near, key=lambda each: _ratio(likeness, each), default=None)
    hint = f"did you mean {best}? " if best else ""
    return f"{name[:MAX_SHOWN]}: there is no such input; {hint}the inputs are {', '.join(known)}"


def resolved(described: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """A property, with the schemas that it references merged in."""
    schemas = document["components"]["schemas"]
    merged: dict[str, Any] = {}
    for part in described.get("allOf", []):
        merged |= schemas[part["$ref"].rpartition("/")[2]]
    return merged | dict(described)


def _typed(name: str, text: str, described: Mapping[str, Any]) -> Any:
    read, expected = READERS[described["type"]]
    value = read(text)
    if value is None:
        raise InputError(name, f"{text[:MAX_SHOWN]!r} is not {expected}")
    return value


def _integer(text: str) -> int | None:
    # As in JSON Schema, 768.0 is an integer.
    whole = re.fullmatch(r"([+-]?[0-9]{1,40})(\.0+)?", text)
    return int(whole[1]) if whole else None


def _number(text: str) -> float | None:
    # Decimal numbers only: Python's float() also accepts 1_0 and digits of other scripts.
    if not re.fullmatch(
        r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,3})?", text
    ):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _boolean(text: str) -> bool | None:
    return text in YES if text in (*YES, *NO) else None


READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "string": (str, "a text"),
    "integer": (_integer, "a whole number"),
    "number": (_number, "a number"),
    "boolean": (_boolean, "true or false"),
}


def _problem(error: jsonschema.ValidationError, described: Mapping[str, Any]) -> str:
    if error.validator == "enum":
        *others, last = map(str, error.validator_value)
        return (
            f"{repr(error.instance)[:MAX_SHOWN]} is not allowed; use {', '.join(others)} or {last}"
        )
    if error.validator == "type":
        return f"{repr(error.instance)[:MAX_SHOWN]} is not {READERS[described['type']][1]}"
    low, high = described.get("minimum"), described.get("maximum")
    if low is not None and high is not None:
        return f"{error.instance} is out of range; use {low:g} to {high:g}"
    if low is not None:
        return f"{error.instance} is out of range; use {low:g} or more"
    if high is not None:
        return f"{error.instance} is out of range; use {high:g} or less"
    return str(error.message)


def _ratio(matcher: difflib.SequenceMatcher[str], name: str) -> float:
    matcher.set_seq1(name)
    return matcher.ratio()


def _secret(name: str, value: str) -> str:
    """Reads a secret. `@env:VARIABLE` and `@FILE` keep it out of the process list."""
    if value.startswith(FROM_ENVIRONMENT):
        variable = value.removeprefix(FROM_ENVIRONMENT)
        if not os.environ.get(variable):
            raise InputError(name, f"the environment variable {variable} is not set")
        return os.environ[variable]
    if value.startswith("@"):
        try:
            return Path(value[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(name, f"the file {value[1:]} cannot be read") from error
    return value


def open_file(name: str, value: str, folder: Path) -> cog.Path:
    """The file of one input: `@path`, or a URL that is downloaded into the folder as `name`.

    Raises:
        InputError: as `open_files`.
    """
    if value.startswith("@"):
        path = Path(value[1:])
        if not path.is_file():
            raise InputError(name, f"there is no file {value[1:]}")
        return cog.Path(path)
    # Not urlsplit, because it caches its arguments, and a data URL contains the whole file.
    before, colon, _ = value[:MAX_SHOWN].lstrip().partition(":")
    scheme = before.lower() if colon else ""
    if scheme not in URL_SCHEMES:
        raise InputError(name, f"give a file as {name}=@FILE, or an http(s) URL")
    target = folder / name
    if scheme == "data":
        target.write_bytes(_data(name, value))
        return cog.Path(target)
    with target.open("wb") as file:
        try:
            # _opener allows the same schemes after a redirect.
            with _opener().open(value, timeout=TIMEOUT_SECONDS) as response:
                while chunk := response.read(1 << 16):
                    file.write(chunk)
                    _check_size(file.tell(), name)
        except urllib.error.HTTPError as error:
            raise InputError(
                name, f"the download failed: the server answered {error.code} {error.reason}"
            ) from error
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            reason = getattr(reason, "strerror", None) or reason
            raise InputError(name, f"the download failed: {reason}") from error
    return cog.Path(target)


def _data(name: str, url: str) -> bytes:
    """Decodes a data URL, without urllib, which caches whole URLs."""
    try:
        head, body = url.split(",", 1)
        data = urllib.parse.unquote_to_bytes(body)
        content = base64.decodebytes(data) if head.endswith(";base64") else data
    except ValueError as error:
        raise InputError(name, "this is not a base64 data URL") from error
    _check_size(len(content), name)
    return content


def _check_size(size: int, name: str) -> None:
    if size > MAX_DOWNLOAD_BYTES:
        megabytes = MAX_DOWNLOAD_BYTES // 1_000_000
        raise InputError(name, f"the download is larger than {megabytes} MB")


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https URLs; never ftp or local files, not even after a redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
