"""What a bundle does on cards of common sizes: computed by what chooses the plan at setup."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dream_o.errors import UserError
from dream_o.runtime.memory_needs import Sizes
from dream_o.runtime.offload import choose_placement
from dream_o.runtime.plans import Placement

CARDS = (8, 12, 16, 24, 32, 48, 80)
"""Sizes of graphics cards, in GiB, as they are sold."""

# Of a card's memory, what the driver and a desktop take.
TAKEN = 450_000_000
# Stated rates, not measured ones: PCIe 4.0 x16, and a card in the middle of the range.
BYTES_A_SECOND = 22e9
OPERATIONS_A_SECOND = 120e12
# Of a step of 1024 x 1024 with one 512 x 512 reference, with FLUX.1-dev.
OPERATIONS_A_STEP = 95e12
HOST = 128 * 2**30
ASSUMED_COPIES = f"{BYTES_A_SECOND / 1e9:.0f} GB/s from the host, enough of the host's memory"
ASSUMED = (
    f"{ASSUMED_COPIES}, {OPERATIONS_A_SECOND / 1e12:.0f} TFLOP/s, "
    f"{OPERATIONS_A_STEP / 1e12:.0f} TFLOP a step"
)


@dataclass(frozen=True)
class OnCard:
    """One precision on a card.

    Attributes:
        gigabytes: of the card, GiB.
        precision: of the bundle.
        placement: what `auto` chooses; None where nothing fits.
        resident: bytes of GPU memory that are taken.
        once, moved: bytes that come to the GPU once a request, and in every step.
        copying: seconds of the copies of a step.
        seconds: of a step of the full-size model, the longer of computing and copying.
    """

    gigabytes: int
    precision: str
    placement: Placement | None
    resident: int = 0
    once: int = 0
    moved: int = 0
    copying: float = 0.0
    seconds: float = 0.0

    @property
    def plan(self) -> str:
        """The plan in words."""
        if self.placement is None:
            return "does not fit"
        streamed = self.placement.streamed_blocks
        return self.placement.plan + (f", {streamed} streamed" if streamed else "")


def cards(needed: Mapping[str, Sizes]) -> Iterator[OnCard]:
    """Every card with every precision.

    Args:
        needed: sizes by precision, as `dream_o.runtime.memory_needs.needs` gives them.
    """
    for gigabytes in CARDS:
        free = gigabytes * 2**30 - TAKEN
        for precision, sizes in needed.items():
            try:
                placement = choose_placement("auto", None, {precision: sizes}, free, HOST)
            except UserError:
                yield OnCard(gigabytes, precision, None)
                continue
            moved = sum(sizes.each_step(placement))
            yield OnCard(
                gigabytes,
                precision,
                placement,
                resident=sizes.needed(placement),
                once=sum(sizes.once(placement.plan)),
                moved=moved,
                copying=moved / BYTES_A_SECOND,
                seconds=max(OPERATIONS_A_STEP / OPERATIONS_A_SECOND, moved / BYTES_A_SECOND),
            )
