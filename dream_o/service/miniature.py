"""Tells users when the toy model runs: at setup, in each request's log, and in its metadata."""

import logging
from typing import Any

from tokenizers.models import WordLevel

from dream_o.errors import UserError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.request import Request
from dream_o.weights.format.bundle import Bundle

logger = logging.getLogger(__name__)

KNOWS = (
    "it knows drawings of hearts, stars, mugs, fish, houses, cats and people, in seven colours, "
    "three patterns and five places"
)
"""docs/miniature.md has the whole list."""
REAL_MODEL = "docs/weights.md says how to install the real model"
UNKNOWN_SHOWN = 12  # words of a prompt in one line

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

    def remark(self, request: Request, prompt: str) -> str:
        """One line for a request's log: what the miniature can draw, and what it does not know."""
        unknown = self.unknown_words(prompt)
        parts = [f"drawn by the miniature, a toy model: {KNOWS}"]
        if unknown:
            shown = ", ".join(repr(word) for word in unknown[:UNKNOWN_SHOWN])
            more = len(unknown) - UNKNOWN_SHOWN
            parts.append(
                f"it does not know {shown}" + (f" and {more} more words" if more > 0 else "")
            )
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
