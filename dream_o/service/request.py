"""A dream-o request, and the checks that need neither an image nor a model."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dream_o.errors import InputError
from dream_o.guidance import true_cfg_steps
from dream_o.service.whole_numbers import settle_whole_numbers
from dream_o.sizes import MAX_REFERENCES, check_size

if TYPE_CHECKING:
    from dream_o.references.prepared import Prepared

logger = logging.getLogger(__name__)

# T5 reads 512 tokens; tokenizing megabytes would block the server for minutes.
MAX_PROMPT_CHARACTERS = 10_000

# DreamO was trained with this sentence before every style prompt (DreamO's model card).
STYLE_TRIGGER = "generate a same style image."


@dataclass(frozen=True)
class Reference:
    """One slot: an upload and its task.

    Attributes:
        image: a file, or None for an empty slot, or a reference that `dream_o.references.prepare`
            has prepared for this task and the request's `ref_res`. A plain `str` is refused,
            because the Cog server passes one when the request contained a local path or a
            `file://` URL.
        task: `ip`, `id` or `style`.
    """

    image: "os.PathLike[str] | str | Prepared | None"
    task: str

    @property
    def file(self) -> "os.PathLike[str] | str | None":
        """The image if it is a file."""
        return self.image if isinstance(self.image, (str, os.PathLike)) else None


@dataclass(frozen=True)
class Request:
    """The inputs of one image, with the names, defaults and bounds of `predict.py`."""

    prompt: str
    references: tuple[Reference, ...] = ()
    width: int = 1024
    height: int = 1024
    num_steps: int = 12
    guidance: float = 3.5
    seed: int | None = None
    ref_res: int = 512
    neg_prompt: str = ""
    neg_guidance: float = 3.5
    true_cfg: float = 1.0
    cfg_start_step: int = 0
    cfg_end_step: int = 0
    first_step_guidance: float = 0.0

    def __post_init__(self) -> None:
        settle_whole_numbers(self)


def check_request(request: Request) -> None:
    """Checks what the input schema cannot express, without opening any image.

    Raises:
        InputError: an input cannot be used; names the input.
    """
    for problem in request_problems(request):
        raise problem
    _tell_what_has_no_effect(request)


def request_problems(request: Request) -> Iterator[InputError]:
    """Everything that `check_request` refuses, an error for each input."""
    for name in ("width", "height"):
        try:
            check_size(name, getattr(request, name))
        except InputError as problem:
            yield problem
    if request.cfg_start_step > request.cfg_end_step:
        yield InputError(
            "cfg_start_step",
            f"{request.cfg_start_step} is greater than cfg_end_step ({request.cfg_end_step}); "
            "use a cfg_start_step of at most cfg_end_step",
        )
    if len(request.references) > MAX_REFERENCES:
        raise InputError(
            f"ref_image{MAX_REFERENCES + 1}", f"at most {MAX_REFERENCES} references are allowed"
        )
    for slot, reference in enumerate(request.references, start=1):
        if isinstance(reference.image, str):
            yield InputError(
                f"ref_image{slot}",
                "send an upload, a data URL or an http(s) URL, not a local path",
            )
    for name in ("prompt", "neg_prompt"):
        length = len(getattr(request, name))
        if length > MAX_PROMPT_CHARACTERS:
            yield InputError(
                name, f"has {length} characters; at most {MAX_PROMPT_CHARACTERS} are allowed"
            )
    if not request.prompt.strip() and all(each.image is None for each in request.references):
        yield InputError("prompt", "is empty; describe the image, or give a reference image")


def _tell_what_has_no_effect(request: Request) -> None:
    if has_negative_pass(request):
        return
    if request.neg_prompt.strip():
        logger.warning(
            "neg_prompt has no effect: it needs true_cfg above 1 and cfg_end_step above "
            "cfg_start_step; try true_cfg=2 and cfg_end_step=%d",
            request.num_steps,
        )
    if request.true_cfg > 1:
        logger.info(
            "true_cfg=%g has no effect: no step i has cfg_start_step (%d) <= i < cfg_end_step (%d)",
            request.true_cfg,
            request.cfg_start_step,
            request.cfg_end_step,
        )


def has_negative_pass(request: Request) -> bool:
    """Whether true CFG is on in any step, so that the negative prompt has an effect."""
    window = request.cfg_start_step, request.cfg_end_step
    return bool(true_cfg_steps(request.true_cfg, *window, request.num_steps))


def full_prompt(request: Request) -> str:
    """The prompt for the model: with the style sentence first if a task is `style`."""
    has_style = any(each.task == "style" for each in request.references if each.image is not None)
    if has_style and not request.prompt.lstrip().lower().startswith(STYLE_TRIGGER):
        logger.info("prompt: added in front, for the style reference: %s", STYLE_TRIGGER)
        return f"{STYLE_TRIGGER} {request.prompt}".strip()
    return request.prompt
