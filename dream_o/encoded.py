"""What is encoded once and can be used again in many calls of the pipeline."""

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
    """A reference picture as latents; it can be used in any slot.

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
