"""Between the form's values, the inputs that the schema allows, and an image's metadata."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from dream_o.dream_render.request import RenderRequest
from dream_o.errors import InputError, UserError
from dream_o.images.writing import read_metadata
from dream_o.server.inputs import resolved, type_inputs
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import load_predictor
from dream_o.service.request import Reference, Request
from dream_o.sizes import MAX_REFERENCES

DREAM_O, DREAM_RENDER = "predict.py:Predictor", "predict.py:DreamRenderPredictor"
# What the metadata holds beside inputs.
FACTS = ("model", "loras", "final_prompt", "final_negative_prompt", "version")
# What other programs write is refused before it is shown: no real metadata is longer.
MAX_METADATA_CHARACTERS = 100_000

Schema = Mapping[str, Mapping[str, Any]]


@cache
def document_of(predictor: str) -> Mapping[str, Any]:
    """The OpenAPI document of a predictor, by which the server validates requests."""
    return openapi_document(type(load_predictor(predictor)))


@cache
def schema_of(predictor: str) -> Schema:
    """Each input's schema by name: type, default, bounds, choices and description."""
    document = document_of(predictor)
    properties = document["components"]["schemas"]["Input"]["properties"]
    return {name: resolved(each, document) for name, each in properties.items()}


@cache
def required_of(predictor: str) -> frozenset[str]:
    """The inputs that have no default."""
    return frozenset(document_of(predictor)["components"]["schemas"]["Input"].get("required", ()))


def checked(values: Mapping[str, Any], predictor: str) -> dict[str, Any]:
    """The values of a form with the schema's types; blank ones are left out if they are optional.

    Raises:
        InputError: the schema does not allow a value.
    """
    schema = schema_of(predictor)
    texts = [
        (name, _text(value))
        for name, value in values.items()
        if value not in (None, []) and (value != "" or schema[name]["type"] == "string")
    ]
    typed = type_inputs(texts, document_of(predictor))
    defaults = {name: each.get("default") for name, each in schema.items()}
    return defaults | typed


def _text(value: Any) -> str:
    # Sliders give 768.0 or 768, and the schema's reader knows both.
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def request_of(values: Mapping[str, Any], references: Mapping[int, Reference]) -> Request:
    """A request with the values of `checked`; references by slot, from 1.

    Raises:
        InputError: there are more references than the model takes.
    """
    last = max(references, default=0)
    if last > MAX_REFERENCES:
        raise InputError(f"ref_image{last}", f"at most {MAX_REFERENCES} references are allowed")
    slots = tuple(references.get(slot, Reference(None, "ip")) for slot in range(1, last + 1))
    own = {field.name for field in fields(Request)} - {"references"}
    return Request(references=slots, **{name: values[name] for name in own})


def render_request_of(values: Mapping[str, Any]) -> RenderRequest:
    """A DreamRender request with the values of `checked`."""
    return RenderRequest(**{field.name: values[field.name] for field in fields(RenderRequest)})


@dataclass(frozen=True)
class Restored:
    """The settings that an image's metadata holds.

    Attributes:
        predictor: DREAM_O or DREAM_RENDER.
        values: inputs by name, allowed by the predictor's schema.
        notes: sentences for the user about what was not restored.
    """

    predictor: str
    values: Mapping[str, Any]
    notes: tuple[str, ...]


def made_by(metadata: Mapping[str, Any]) -> str:
    """The predictor that an image with this metadata was made by."""
    return DREAM_RENDER if "final_prompt" in metadata else DREAM_O


def restore(image: str | os.PathLike[str]) -> Restored:
    """The settings in an image that this project made; the file is not trusted.

    Raises:
        UserError: the file is no such image, or its settings are not allowed.
    """
    try:
        metadata = read_metadata(image)
    except UserError:
        raise
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError("the image cannot be read; drop a webp, jpg or png file") from error
    predictor = made_by(metadata)
    schema = schema_of(predictor)
    known = {name: metadata[name] for name in schema if name in metadata}
    if not {"prompt", "seed"} <= known.keys():
        raise UserError(
            "the image's metadata is not from this project, so there are no settings to restore"
        )
    if sum(len(str(value)) for value in known.values()) > MAX_METADATA_CHARACTERS:
        raise UserError("the image's metadata is too long; no settings were restored")
    notes = []
    others = sorted(set(metadata) - set(schema) - set(FACTS) - _further_tasks())
    if others:
        shown = ", ".join(name[:40] for name in others[:5])
        notes.append(f"Not restored, because this version has no such input: {shown}.")
    if predictor == DREAM_O:
        notes.append("References are never in an image: add them again if it was made with any.")
    required = {"dev_key": "restored"} if predictor == DREAM_RENDER else {}
    values = checked(known | required, predictor)
    return Restored(predictor, {name: values[name] for name in known}, tuple(notes))


def _further_tasks() -> set[str]:
    """The tasks of slots that only the page and the command line have."""
    return {f"ref_task{slot}" for slot in range(1, MAX_REFERENCES + 1)}
