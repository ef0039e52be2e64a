"""What a DreamRender request is, and what is refused before any model is touched."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from dream_o.dream_render.names import unknown_name
from dream_o.dream_render.styles import parse_styles
from dream_o.errors import InputError
from dream_o.service.whole_numbers import settle_whole_numbers
from dream_o.sizes import VAE_SCALE, check_size

MODELS_LISTING = "dream-o render models"
# Largest side of a file, and how much larger than the request the hires pass makes it.
MAX_SIDE = 2048
HIRES_SCALE = 2
# Some thirty windows of the text encoder: far beyond any real prompt, and still quick.
MAX_PROMPT_CHARACTERS = 10_000
# JSON's escapes can write these alone, and no encoding can.
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RenderRequest:
    """The inputs of one image but for the key; names, defaults and bounds as in `predict.py`."""

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
    """Refuses what the input schema cannot express.

    Args:
        request: what was asked for.
        models: the names in the model registry.

    Raises:
        InputError: names the input, what is wrong, what is allowed.
    """
    if request.model not in models:
        raise unknown_name("model", request.model, models, MODELS_LISTING)
    if not request.prompt.strip():
        raise InputError("prompt", "is empty; describe the image")
    for name in ("prompt", "negative_prompt"):
        text = getattr(request, name)
        if SURROGATE.search(text):
            raise InputError(
                name, "holds half of a surrogate pair; send text that can be written in UTF-8"
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
        # After the bound, so that the values it offers are allowed with enable_hr too.
        check_size(name, pixels, VAE_SCALE)
    parse_styles(request.styles)
