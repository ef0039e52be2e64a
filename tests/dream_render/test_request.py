"""What a DreamRender request is refused for before anything is loaded."""

import re
from typing import Any

import pytest

from dream_o.dream_render.request import MAX_PROMPT_CHARACTERS, check_render_request
from dream_o.errors import InputError
from tests.dream_render.conftest import small

MODELS = ("miniature", "realisticVisionV60B1_v51VAE", "sd_xl_base_1.0")

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"width": 513},
        "width: 513 is not a multiple of 8; the nearest allowed values are 512 and 520",
    ),
    ({"height": 71}, "height: 71 is not a multiple of 8; the nearest allowed values are 64 and 72"),
    ({"prompt": "  \n"}, "prompt: is empty; describe the image"),
    (
        {"negative_prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)},
        "negative_prompt: has 10001 characters; at most 10000 are allowed",
    ),
    (
        {"width": 1032, "enable_hr": True},
        "enable_hr: width would be 2064; use a width of at most 1024, or enable_hr=False",
    ),
    (
        {"model": "realisticVision"},
        "model: 'realisticVision' is not known; the nearest are realisticVisionV60B1_v51VAE, ",
    ),
    (
        {"width": 1030, "enable_hr": True},
        "enable_hr: width would be 2060; use a width of at most 1024, or enable_hr=False",
    ),
    (
        {"height": 1020, "enable_hr": True},
        "height: 1020 is not a multiple of 8; the nearest allowed values are 1016 and 1024",
    ),
    ({"prompt": "shoe \ud83d"}, "prompt: contains half of a surrogate pair; send text that "),
    ({"negative_prompt": "\udc5f"}, "negative_prompt: contains half of a surrogate pair; "),
    ({"styles": "animee"}, "styles: 'animee' is not known; the nearest are anime, "),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_a_refusal_names_the_input_and_what_is_allowed(
    changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        check_render_request(small(**changes), MODELS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"width": 1024, "height": 1024, "enable_hr": True},
        {"width": 2048},
        {"styles": "anime"},
        {"prompt": "👟"},
    ],
)
def test_the_rest_passes(changes: dict[str, Any]) -> None:
    check_render_request(small(**changes), MODELS)
