"""The offloading plans: their names and meanings, and what a choice among them is.

Imports no torch: settings are checked with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PLANS: Mapping[str, str] = {
    "none": "everything stays on the GPU",
    "text": "T5 comes to the GPU once for each new prompt",
    "modulation": "T5 comes to the GPU once for each new prompt, the modulation once a request",
    "blocks": "T5 and the modulation come to the GPU as needed, some blocks in every step",
}
"""What DREAM_O_OFFLOAD names beside `auto`, from the least that is streamed to the most."""


@dataclass(frozen=True)
class Placement:
    """Which weights stay on the GPU.

    Attributes:
        plan: one of PLANS.
        streamed_blocks: how many of the transformer's blocks come to the GPU in every step; 0
            unless the plan is `blocks`.
        strips: whether the VAE works in strips of rows, which takes less memory and more time.
    """

    plan: str
    streamed_blocks: int = 0
    strips: bool = False
