"""The inputs of a forward pass other than the latents: text, references, positions, guidance."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class EncodedPrompt(NamedTuple):
    """A prompt after the text encoders.

    Attributes:
        prompt_embeds: T5's hidden states, `(1, 512, joint_attention_dim)`.
        pooled_prompt_embeds: CLIP's pooled output, `(1, pooled_projection_dim)`.
        excess: the number of tokens beyond T5's 512, which were cut off.
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor
    excess: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.prompt_embeds.nbytes + self.pooled_prompt_embeds.nbytes


@dataclass(frozen=True)
class EncodedReference:
    """The latents of a reference image; they can be used in any slot.

    Attributes:
        grid: the image's height and width in tokens.
        latents: packed, `(1, rows * columns, 64)`.
    """

    grid: tuple[int, int]
    latents: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the latents."""
        return self.latents.nbytes


# Cosines and sines of text, image and reference tokens, each `(tokens, head_dim / 2, 2)` float32.
Rotary = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Conditioning:
    """The inputs of a forward pass other than the latents; only the modulation differs by step.

    Attributes:
        text_tokens: `(1, text, dim)`.
        modulation: `(steps, rows, dim)`, each step's shifts, scales and gates.
        rotary: the tables that `embed_positions` returns.
        reference_tokens: `(1, tokens, dim)`, or None.
        token_embeddings: whether DreamO's task embedding is added to the image tokens.
    """

    text_tokens: torch.Tensor
    modulation: torch.Tensor
    rotary: Rotary
    reference_tokens: torch.Tensor | None = None
    token_embeddings: bool = True
