"""Makes a request's final prompts: enhancement or designer words first, then styles."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from dream_o.dream_render.phrases import join
from dream_o.dream_render.request import RenderRequest
from dream_o.dream_render.styles import apply_style, parse_styles

logger = logging.getLogger(__name__)

DESIGNER_PROMPT = (
    "one isolated object, complete and centred, nothing else in the picture, plain light grey "
    "background, soft even studio light, product photography"
)
DESIGNER_NEGATIVE = (
    "scenery, furniture, busy background, several objects, cropped object, hands, people, text, "
    "frame, pattern behind the object"
)


@dataclass(frozen=True)
class Prompts:
    """The prompt and the negative prompt for the checkpoint."""

    positive: str
    negative: str


def final_prompts(request: RenderRequest, enhance: Callable[[str], str]) -> Prompts:
    """The prompts for a checkpoint.

    With `designer`, the designer's words are added and `enhance_prompt` is ignored. Otherwise
    `enhance_prompt` adds the prompt model's phrases. Then the styles are applied in order.

    Args:
        request: a checked request.
        enhance: enhances a prompt; called only if the result is used.
    """
    positive, negative = request.prompt, request.negative_prompt
    if request.designer:
        if request.enhance_prompt:
            logger.info(
                "enhance_prompt is ignored, because designer adds its own words to the prompt"
            )
        positive = join(positive, DESIGNER_PROMPT)
        negative = join(negative, DESIGNER_NEGATIVE) if negative.strip() else DESIGNER_NEGATIVE
    elif request.enhance_prompt:
        positive = enhance(positive)
    for style in parse_styles(request.styles):
        positive, negative = apply_style(style, positive, negative)
    return Prompts(positive, negative)
