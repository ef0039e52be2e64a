"""Tells users when the toy model runs: at setup, in each request's log, and in its metadata."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers.models import WordLevel

from dream_o.errors import UserError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.request import Request, has_negative_pass
from dream_o.weights.format.bundle import Bundle

logger = logging.getLogger(__name__)

KNOWS = (
    "it knows drawings of hearts, stars, mugs, fish, houses, cats, shoes, dogs, cars, trees, "
    "birds, boats, flowers, balls, bottles and people, in seven colours, three patterns and "
    "five places"
)
"""docs/miniature.md has the whole list."""
REAL_MODEL = "docs/weights.md says how to install the real model"
UNKNOWN_SHOWN = 12  # words of an input in one line

NOT_BY_ACCIDENT = (
    "no weights bundle is installed; set DREAM_O_WEIGHTS to a bundle's folder or to "
    "hf://owner/repository (docs/weights.md), or to miniature for the embedded toy model, which "
    "runs on a GPU only when it is named "
    "(cog predict -e DREAM_O_WEIGHTS=miniature -i prompt='a red heart')"
)


def check_meant(bundle: Bundle, named: str | None, device_type: str) -> None:
    """Raises UserError if the miniature would run on CUDA without having been requested."""
    if named is None and bundle.folder == EMBEDDED_BUNDLE and device_type == "cuda":
        raise UserError(NOT_BY_ACCIDENT)


class Miniature:
    """What the miniature's tokenizer, a list of words, says about a prompt.

    Args:
        tokenizer: the pipeline's T5 tokenizer; `is_one` must be true for it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer.backend_tokenizer
        self.unknown_id = self.tokenizer.token_to_id(self.tokenizer.model.unk_token)

    @staticmethod
    def is_one(tokenizer: Any) -> bool:
        """Whether a T5 tokenizer is a list of whole words, as only the miniature's is."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        return backend is not None and isinstance(backend.model, WordLevel)

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the model does not know, each once, as written."""
        encoded = self.tokenizer.encode(prompt, add_special_tokens=False)
        spans = zip(encoded.ids, encoded.offsets, strict=True)
        words = [prompt[start:end] for token, (start, end) in spans if token == self.unknown_id]
        return list(dict.fromkeys(words))

    def unknown_by_input(self, request: Request, prompt: str) -> dict[str, list[str]]:
        """The unknown words of the inputs that the model reads; inputs without any are left out.

        Args:
            request: its negative prompt counts if the request has a negative pass.
            prompt: the prompt for the model, from `full_prompt`.
        """
        texts = {"prompt": prompt}
        if has_negative_pass(request):
            texts["neg_prompt"] = request.neg_prompt
        found = {name: self.unknown_words(text) for name, text in texts.items()}
        return {name: words for name, words in found.items() if words}

    @staticmethod
    def remark(request: Request, unknown: Mapping[str, Sequence[str]]) -> str:
        """One line for a request's log: what the miniature can draw, and what it does not know.

        Args:
            request: the inputs.
            unknown: the unknown words, from `unknown_by_input`.
        """
        parts = [f"drawn by the miniature, a toy model: {KNOWS}"]
        for name, words in unknown.items():
            shown = ", ".join(repr(word) for word in words[:UNKNOWN_SHOWN])
            more = len(words) - UNKNOWN_SHOWN
            rest = f" and {more} more words" if more > 0 else ""
            parts.append(f"in {name} it does not know {shown}{rest}")
        slots = [
            f"ref_image{slot}"
            for slot, each in enumerate(request.references, start=1)
            if each.image is not None
        ]
        if slots:
            parts.append(
                f"it knows drawings only: if {' or '.join(slots)} is a photograph, expect "
                "something else"
            )
        return "; ".join([*parts, REAL_MODEL])
