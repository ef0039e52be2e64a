"""Makes a predictor's OpenAPI document from the signature of its `predict`."""

import copy
import inspect
import json
import types
import typing
from functools import cache
from pathlib import Path
from typing import Any

import cog

# The part that is the same for every Cog server; a predictor adds Input, Output and its choices.
ENVELOPE = Path(__file__).with_name("cog_openapi.json")

JSON_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    cog.Path: {"type": "string", "format": "uri"},
    cog.Secret: {
        "type": "string",
        "format": "password",
        "writeOnly": True,
        "x-cog-secret": True,
    },
}

# JSON Schema's names for the bounds of `cog.Input`.
BOUNDS = {"ge": "minimum", "le": "maximum"}


def openapi_document(predictor: type) -> dict[str, Any]:
    """The document that the Cog server serves at `/openapi.json` and validates requests with.

    Args:
        predictor: a class whose `predict` annotates every input with a type of JSON_TYPES (or
            `... | None`) and gives each a `cog.Input`.

    Returns:
        OpenAPI 3.0.2 as JSON values. An input with neither a default nor `| None` is required, as
        in the document that `cog build` makes.

    Raises:
        TypeError: an input has an unsupported type or no `cog.Input`; names the input.
    """
    document = copy.deepcopy(_envelope())
    schemas = document["components"]["schemas"]
    signature = inspect.signature(predictor.predict)  # type: ignore[attr-defined]
    hints = typing.get_type_hints(predictor.predict)  # type: ignore[attr-defined]

    properties: dict[str, Any] = {}
    required = []
    for name, parameter in list(signature.parameters.items())[1:]:
        field = parameter.default
        if not isinstance(field, cog.FieldInfo):
            raise TypeError(f"{name}: give the input a cog.Input(...)")
        kind, optional = _without_none(hints.get(name))
        if kind not in JSON_TYPES:
            raise TypeError(f"{name}: an input cannot be of type {kind}")
        properties[name] = _property(name, JSON_TYPES[kind], field) | {"x-order": len(properties)}
        if field.choices:
            schemas[name] = _choices(name, JSON_TYPES[kind], field)
        if field.default is None and not optional:
            required.append(name)

    output = hints.get("return")
    if output not in JSON_TYPES:
        raise TypeError(f"the output cannot be of type {output}")
    schemas["Input"] = {
        "type": "object",
        "title": "Input",
        "properties": properties,
    }
    if required:
        schemas["Input"]["required"] = required
    schemas["Output"] = JSON_TYPES[output] | {"title": "Output"}
    return document


@cache
def _envelope() -> dict[str, Any]:
    return json.loads(ENVELOPE.read_text(encoding="utf-8"))


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotated type without `None`, and whether `None` is allowed."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = typing.get_args(annotation)
        some = [kind for kind in kinds if kind is not types.NoneType]
        if len(some) == 1:
            return some[0], len(some) < len(kinds)
    return annotation, False


def _property(name: str, json_type: dict[str, Any], field: cog.FieldInfo) -> dict[str, Any]:
    described: dict[str, Any]
    if field.choices:
        described = {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}
    else:
        described = json_type | {"title": name.replace("_", " ").title()}
    if field.description is not None:
        described["description"] = field.description
    if field.default is not None:
        described["default"] = field.default
    for bound, keyword in BOUNDS.items():
        limit = getattr(field, bound)
        if limit is not None:
            described[keyword] = float(limit)
    return described


def _choices(name: str, json_type: dict[str, Any], field: cog.FieldInfo) -> dict[str, Any]:
    return json_type | {"title": name, "description": "An enumeration.", "enum": field.choices}
