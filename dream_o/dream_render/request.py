"""A DreamRender request, and the checks that need no model."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from dream_o.dream_render.names import unknown_name
from dream_o.dream_render.styles import parse_styles
from dream_o.errors import InputError
from dream_o.service.whole_numbers import settle_whole_numbers
from dream_o.sizes import VAE_SCALE, check_size

MODELS_LISTING = "dream-o render models"
# The largest side of an image, and the factor by which the hires pass enlarges it.
MAX_SIDE = 2048
HIRES_SCALE = 2
# About thirty windows of the text encoder: far more than any real prompt, and still fast.
MAX_PROMPT_CHARACTERS = 10_000
# JSON escapes can produce lone surrogates, which no encoding can represent.
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RenderRequest:
    """The inputs of one image except the key; names, defaults and bounds as in `predict.py`."""

    model: str
    prompt: str
    width: int
    height: int
    seed: int = -1
    styles: str = "None"
    cfg_scale: float = 7.0
    steps: int = 30
    enable_hr: bool = False
    negative_prompt: str = ""
    prompt_temp: float = 0.8
    prompt_top_p: float = 0.9
    designer: bool = False
    enhance_prompt: bool = True

    def __post_init__(self) -> None:
        settle_whole_numbers(self)


def check_render_request(request: RenderRequest, models: Collection[str]) -> None:
    """Checks what the input schema cannot express.

    Args:
        request: the request.
        models: the names in the model registry.

    Raises:
        InputError: an input cannot be used; names the input.
    """
    if request.model not in models:
        raise unknown_name("model", request.model, models, MODELS_LISTING)
    if not request.prompt.strip():
        raise InputError("prompt", "is empty; describe the image")
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        if SURROGATE.search(text):
            raise InputError(
                name, "contains half of a surrogate pair; send text that can be encoded in UTF-8"
            )
        length = len(text)
        if length > MAX_PROMPT_CHARACTERS:
            raise InputError(
                name, f"has {length} characters; at most {MAX_PROMPT_CHARACTERS} are allowed"
            )
    for name in ("width", "height"):
        pixels = getattr(request, name)
        if request.enable_hr and pixels * HIRES_SCALE > MAX_SIDE:
            raise InputError(
                "enable_hr",
                f"{name} would be {pixels * HIRES_SCALE}; use a {name} of at most "
                f"{MAX_SIDE // HIRES_SCALE}, or enable_hr=False",
            )
        # After the limit of enable_hr, so that the suggested values satisfy it too.
        check_size(name, pixels, VAE_SCALE)
    parse_styles(request.styles)
