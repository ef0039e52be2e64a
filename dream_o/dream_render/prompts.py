"""The final prompts of a request: enhanced or for the designer, then inside the styles' words."""

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
    """What the checkpoint is told to show, and not to show."""

    positive: str
    negative: str


def final_prompts(request: RenderRequest, enhance: Callable[[str], str]) -> Prompts:
    """The prompts for a checkpoint.

    With `designer` the designer's words are added and `enhance_prompt` is ignored; without it,
    `enhance_prompt` adds what the prompt model says. Styles are applied around either, in order.

    Args:
        request: a checked request.
        enhance: prompt to enhanced prompt; called only when its answer is used.
    """
    positive, negative = request.prompt, request.negative_prompt
    if request.designer:
        if request.enhance_prompt:
            logger.info("enhance_prompt has no effect: designer has a prompt addition of its own")
        positive = join(positive, DESIGNER_PROMPT)
        negative = join(negative, DESIGNER_NEGATIVE) if negative.strip() else DESIGNER_NEGATIVE
    elif request.enhance_prompt:
        positive = enhance(positive)
    for style in parse_styles(request.styles):
        positive, negative = apply_style(style, positive, negative)
    return Prompts(positive, negative)
