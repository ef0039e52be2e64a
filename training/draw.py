"""The randomness of training steps."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Draw:
    """The randomness of one part of a step, which depends only on seed, stage, step and part.

    So a run that was stopped and continued gives the same weights as an uninterrupted one.

    Attributes:
        numpy, torch: differ between the parts of a step.
        common: is the same in all parts. What decides a part's duration is drawn from it, so that
            no part waits long for another.
    """

    numpy: np.random.Generator
    torch: torch.Generator
    common: np.random.Generator

    @classmethod
    def of(cls, seed: int, stage: str, step: int, part: int = 0) -> "Draw":
        """The randomness of a part of a step."""
        entropy = [seed, *stage.encode(), step]
        words = np.random.SeedSequence(entropy).generate_state(2 * part + 2, np.uint64)[-2:]
        return cls(
            np.random.default_rng(int(words[0])),
            torch.Generator().manual_seed(int(words[1] >> np.uint64(1))),
            np.random.default_rng(entropy),
        )
