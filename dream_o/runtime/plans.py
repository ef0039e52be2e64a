"""The offloading plans: their names and meanings, and a choice among them.

This module does not import torch, because settings are checked without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PLANS: Mapping[str, str] = {
    "none": "everything stays on the GPU",
    "text": "T5 is copied to the GPU once for each new prompt",
    "modulation": "T5 is copied to the GPU once for each new prompt, the modulation once a request",
    "blocks": "T5 and the modulation are copied to the GPU as needed, some blocks in every step",
}
"""The values of DREAM_O_OFFLOAD besides `auto`, from the least streaming to the most."""


@dataclass(frozen=True)
class Placement:
    """Which weights stay on the GPU.

    Attributes:
        plan: one of PLANS.
        streamed_blocks: how many of the transformer's blocks are copied to the GPU in every step; 0
            unless the plan is `blocks`.
        strips: whether the VAE works in strips of rows, which needs less memory and more time.
    """

    plan: str
    streamed_blocks: int = 0
    strips: bool = False
