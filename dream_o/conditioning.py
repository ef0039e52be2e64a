"""What a forward pass is given beside the latents: text, references, positions, guidance."""

from dataclasses import dataclass
from typing import NamedTuple

import torch


class EncodedPrompt(NamedTuple):
    """A prompt as the transformer takes it.

    Attributes:
        states: T5's, `(1, 512, joint_attention_dim)`.
        pooled: CLIP's vector, `(1, pooled_projection_dim)`.
        excess: tokens of the prompt beyond T5's 512, which are not read.
    """

    states: torch.Tensor
    pooled: torch.Tensor
    excess: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.states.nbytes + self.pooled.nbytes


@dataclass(frozen=True)
class EncodedReference:
    """A reference image as latents; it can be used in any slot.

    Attributes:
        grid: rows and columns in tokens.
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
    """What a forward pass is given beside the latents; only the modulation differs by step.

    Attributes:
        text_tokens: `(1, text, dim)`.
        modulation: `(steps, rows, dim)`, the shifts, scales and gates of each step.
        rotary: the tables of `embed_positions`.
        reference_tokens: `(1, tokens, dim)`, or None.
        token_embeddings: whether image tokens get DreamO's task embedding.
    """

    text_tokens: torch.Tensor
    modulation: torch.Tensor
    rotary: Rotary
    reference_tokens: torch.Tensor | None = None
    token_embeddings: bool = True
