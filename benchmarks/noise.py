"""A model that returns noise at once, to measure what is around the model."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from dream_o.service.request import Request
from dream_o.service.result import Result

SIDE = 32  # pixels, so that the file's encoding costs little


@dataclass(frozen=True)
class LoadNoise:
    """Takes the place of `dream_o.batch.worker.Load`."""

    def __call__(self, threads: int | None) -> "LoadNoise":
        """Nothing is loaded."""
        return self

    def generate(self, request: Request) -> Result:
        """Noise of the request's seed."""
        pixels = np.random.default_rng(request.seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        metadata = {"prompt": request.prompt, "seed": request.seed}
        return Result(Image.fromarray(pixels), metadata, {"seed": request.seed or 0})

    def is_healthy(self) -> bool:
        """Always."""
        return True
