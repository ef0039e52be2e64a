"""What a predictor gets back from a loaded model."""

from dataclasses import dataclass
from typing import Any

import PIL.Image


@dataclass(frozen=True)
class Result:
    """An image with what made it.

    Attributes:
        image: `RGB`, or `RGBA` where the background was taken away.
        metadata: what is needed to make it again: the inputs (but neither reference images nor
            a key), the seed used, the model version.
        metrics: `seed`, `steps` and `seconds` by stage.
    """

    image: PIL.Image.Image
    metadata: dict[str, Any]
    metrics: dict[str, Any]
