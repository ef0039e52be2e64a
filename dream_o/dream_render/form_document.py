"""The form endpoint in OpenAPI: what it takes and what it answers."""

from collections.abc import Mapping
from typing import Any

from dream_o.dream_render.form_body import BODY_SECONDS, MAX_BODY_BYTES

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image.",
        "headers": {
            "X-Seed": {"description": "The seed used.", "schema": {"type": "string"}},
            "X-Request-Id": {
                "description": "The ID of this request in both logs.",
                "schema": {"type": "string"},
            },
        },
        "content": {
            f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
            for kind in ("png", "webp", "jpeg")
        },
    },
    401: {"description": "The key is missing or not recognised."},
    408: {"description": f"The body did not arrive within {BODY_SECONDS:g} seconds."},
    413: {"description": f"The body is larger than {MAX_BODY_BYTES} bytes."},
    415: {"description": "The body is not a form."},
    422: {"description": "A field is missing or not allowed; the error names it."},
    500: {"description": "The image could not be made; the error says why."},
    502: {
        "description": "The Cog server is unreachable, could not start or gave an invalid answer."
    },
    503: {"description": "The Cog server is busy or starting; Retry-After says when to try again."},
}


def request_body(document: Mapping[str, Any]) -> dict[str, Any]:
    """The form in OpenAPI: the predictor's inputs without references to other schemas."""
    schemas = document["components"]["schemas"]
    properties = {}
    for name, described in schemas["Input"]["properties"].items():
        merged = {key: value for key, value in described.items() if key != "allOf"}
        for part in described.get("allOf", []):
            merged = schemas[part["$ref"].rpartition("/")[2]] | merged
        properties[name] = merged
    schema = {
        "type": "object",
        "required": schemas["Input"]["required"],
        "properties": properties,
    }
    kinds = ("multipart/form-data", "application/x-www-form-urlencoded")
    return {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}
