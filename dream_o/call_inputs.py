"""The images of one call: their prompts, generators and noise, checked against each other."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from dream_o.conditioning import EncodedPrompt
from dream_o.errors import InputError

Prompt: TypeAlias = str | EncodedPrompt
Prompts: TypeAlias = Prompt | list[Prompt] | list[str] | list[EncodedPrompt]
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | None


def listed(name: str, given: Prompts) -> list[Prompt]:
    """`given` as a list; a single prompt makes a list of one.

    Args:
        name: the argument as the caller knows it.

    Raises:
        InputError: the list is empty, or holds something that is not a prompt.
    """
    if isinstance(given, (str, EncodedPrompt)):
        return [given]
    if not isinstance(given, list):
        raise InputError(name, f"is of type {type(given).__name__}; {_ALLOWED}")
    if not given:
        raise InputError(name, f"is an empty list; {_ALLOWED}")
    for each in given:
        if not isinstance(each, (str, EncodedPrompt)):
            raise InputError(name, f"holds a value of type {type(each).__name__}; {_ALLOWED}")
    return [*given]


_ALLOWED = "give a string, the output of `encode_prompt`, or a list of these"


def negative_of_each(given: Prompts | None, prompts: int) -> list[Prompt]:
    """The negative prompt of each prompt; a single one is for all, None is the empty prompt.

    Raises:
        InputError: the list is as long as neither 1 nor the number of prompts.
    """
    negatives = listed("negative_prompt", "" if given is None else given)
    if len(negatives) not in (1, prompts):
        raise InputError(
            "negative_prompt",
            f"{len(negatives)} were given for {prompts} prompts; "
            "give one for each prompt, or one for all",
        )
    return negatives * prompts if len(negatives) == 1 else negatives


def count_images(prompts: int, per_prompt: int) -> int:
    """The number of images of a call; raises InputError unless `per_prompt` is 1 or more."""
    if isinstance(per_prompt, bool) or not isinstance(per_prompt, int) or per_prompt < 1:
        raise InputError("num_images_per_prompt", f"{per_prompt!r} is not a whole number above 0")
    return prompts * per_prompt


def generator_of_each(given: Generators, images: int) -> list[torch.Generator | None]:
    """The generator of each image; a single one draws the noise of all, one after the other.

    Raises:
        InputError: the list's length is not the number of images.
    """
    if given is None or isinstance(given, torch.Generator):
        return [given] * images
    if len(given) != images:
        raise InputError(
            "generator",
            f"{len(given)} were given for {images} images; give one for each image, or one for all",
        )
    return list(given)


def check_latents(latents: torch.Tensor, images: int, tokens: int, channels: int) -> None:
    """Raises InputError unless the latents are `(images, tokens, channels)`."""
    expected = (images, tokens, channels)
    if tuple(latents.shape) != expected:
        raise InputError(
            "latents", f"have the shape {tuple(latents.shape)}; {expected} is needed for this call"
        )


def check_lengths(name: str, encoded: Sequence[EncodedPrompt], tokens: int) -> None:
    """Raises InputError unless every encoded prompt has this many tokens.

    All prompts of a call share the positions of their tokens.
    """
    for each in encoded:
        length = each.prompt_embeds.shape[1]
        if length != tokens:
            raise InputError(
                name,
                f"was encoded with {length} tokens, and the first prompt with {tokens}; "
                "encode all prompts with the same max_sequence_length",
            )


def check_callback_inputs(asked: Sequence[str], offered: Sequence[str]) -> None:
    """Raises InputError if a step's callback asks for a tensor that the pipeline does not offer."""
    unknown: list[Any] = [each for each in asked if each not in offered]
    if unknown:
        raise InputError(
            "callback_on_step_end_tensor_inputs",
            f"{unknown[0]!r} is not offered; use {', '.join(offered)}",
        )
