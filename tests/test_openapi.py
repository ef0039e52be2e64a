"""The generated OpenAPI documents against the published ones in tests/data/contract."""

import json
from pathlib import Path
from typing import Any

import cog
import jsonschema
import pytest

import predict
from dream_o.server.openapi import openapi_document

CONTRACT = Path(__file__).parent / "data" / "contract"

# name, JSON type, format, default, minimum, maximum, choices; in this order.
DREAM_O_INPUTS = [
    ("prompt", "string", None, None, None, None, None),
    ("ref_image1", "string", "uri", None, None, None, None),
    ("ref_task1", "string", None, "ip", None, None, ["ip", "id", "style"]),
    ("ref_image2", "string", "uri", None, None, None, None),
    ("ref_task2", "string", None, "ip", None, None, ["ip", "id", "style"]),
    ("width", "integer", None, 1024, 768, 1024, None),
    ("height", "integer", None, 1024, 768, 1024, None),
    ("num_steps", "integer", None, 12, 8, 30, None),
    ("guidance", "number", None, 3.5, 1, 10, None),
    ("seed", "integer", None, None, None, None, None),
    ("ref_res", "integer", None, 512, 256, 1024, None),
    ("neg_prompt", "string", None, "", None, None, None),
    ("neg_guidance", "number", None, 3.5, 1, 10, None),
    ("true_cfg", "number", None, 1.0, 1, 5, None),
    ("cfg_start_step", "integer", None, 0, 0, 30, None),
    ("cfg_end_step", "integer", None, 0, 0, 30, None),
    ("first_step_guidance", "number", None, 0.0, 0, 10, None),
    ("output_format", "string", None, "webp", None, None, ["webp", "jpg", "png"]),
    ("output_quality", "integer", None, 90, 1, 100, None),
]


def contract(name: str) -> dict[str, Any]:
    return json.loads((CONTRACT / f"{name}.openapi.json").read_text(encoding="utf-8"))


def dream_o() -> dict[str, Any]:
    return openapi_document(predict.Predictor)


@pytest.mark.parametrize(
    ("predictor", "name"),
    [(predict.Predictor, "dream-o"), (predict.DreamRenderPredictor, "dream-render")],
)
def test_the_whole_document_is_the_published_one(predictor, name):
    document, published = openapi_document(predictor), contract(name)
    assert document == published
    inputs, published_inputs = (
        each["components"]["schemas"]["Input"]["properties"] for each in (document, published)
    )
    assert list(inputs) == list(published_inputs)


def test_inputs_keep_their_published_order():
    inputs = dream_o()["components"]["schemas"]["Input"]["properties"]
    assert list(inputs) == [row[0] for row in DREAM_O_INPUTS]
    assert [inputs[name]["x-order"] for name in inputs] == list(range(19))


@pytest.mark.parametrize("row", DREAM_O_INPUTS, ids=[row[0] for row in DREAM_O_INPUTS])
def test_each_input_has_its_published_type_default_and_bounds(row):
    name, kind, form, default, minimum, maximum, choices = row
    schemas = dream_o()["components"]["schemas"]
    described = schemas["Input"]["properties"][name]
    if choices:
        assert described["allOf"] == [{"$ref": f"#/components/schemas/{name}"}]
        assert schemas[name]["enum"] == choices
        described = schemas[name] | described
    assert described["type"] == kind
    assert described.get("format") == form
    assert described.get("default") == default
    assert (described.get("minimum"), described.get("maximum")) == (minimum, maximum)
    assert described["description"]


def test_only_the_prompt_is_required():
    assert dream_o()["components"]["schemas"]["Input"]["required"] == ["prompt"]


def test_the_documents_schemas_are_valid_json_schemas():
    for schema in dream_o()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_secrets_and_booleans_are_described_as_cog_does():
    class Locked(cog.BasePredictor):
        def predict(
            self,
            dev_key: cog.Secret = cog.Input(description="Key."),
            enhance_prompt: bool = cog.Input(description="Enhance?", default=True),
        ) -> cog.Path:
            """Only its signature is read."""

    schema = openapi_document(Locked)["components"]["schemas"]["Input"]
    published = contract("dream-render")["components"]["schemas"]["Input"]["properties"]["dev_key"]
    dev_key = schema["properties"]["dev_key"]
    assert dev_key == published | {"description": "Key."}
    assert schema["properties"]["enhance_prompt"] == {
        "type": "boolean",
        "title": "Enhance Prompt",
        "description": "Enhance?",
        "default": True,
        "x-order": 1,
    }
    assert schema["required"] == ["dev_key"]


def test_a_none_default_makes_an_input_optional_only_with_a_none_type():
    # Cog's own builder requires `int = Input(default=None)`; hiding that would surprise in Docker.
    class Seeds(cog.BasePredictor):
        def predict(
            self,
            strict: int = cog.Input(default=None),
            free: int | None = cog.Input(default=None),
        ) -> cog.Path:
            """Only its signature is read."""

    assert openapi_document(Seeds)["components"]["schemas"]["Input"]["required"] == ["strict"]


@pytest.mark.parametrize("annotation", [dict, "int | str", None])
def test_an_input_that_cannot_be_described_is_named(annotation):
    class Odd(cog.BasePredictor):
        def predict(self, odd: annotation = cog.Input(default=None)) -> cog.Path:  # type: ignore
            """Only its signature is read."""

    with pytest.raises(TypeError, match="odd"):
        openapi_document(Odd)


def test_two_documents_share_nothing_that_can_be_changed():
    dream_o()["components"]["schemas"].clear()
    assert dream_o() == contract("dream-o")
