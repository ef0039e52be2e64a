"""The result of a request."""

from dataclasses import dataclass
from typing import Any

import PIL.Image


@dataclass(frozen=True)
class Result:
    """An image, how it was made, and measurements.

    Attributes:
        image: `RGB`, or `RGBA` if the background was removed.
        metadata: what is needed to make the image again: the inputs (without reference images and
            keys), the seed used, the model version.
        metrics: `seed`, `steps`, `seconds` by stage, `remarks.ref_imageN` if a person should check
            that reference, and `unknown_words.prompt` and `unknown_words.neg_prompt`, each a list,
            if the model does not know these words.
    """

    image: PIL.Image.Image
    metadata: dict[str, Any]
    metrics: dict[str, Any]
