"""Estimates how a bundle runs on cards of common sizes, with the code that chooses the plan."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dream_o.errors import UserError
from dream_o.runtime.memory_needs import Sizes
from dream_o.runtime.offload import choose_placement
from dream_o.runtime.plans import Placement

CARDS = (8, 12, 16, 24, 32, 48, 80)
"""Memory sizes of graphics cards in GiB."""

# Bytes of a card's memory that the driver and a desktop use.
TAKEN = 450_000_000
# Rates from specifications, not measured: PCIe 4.0 x16, and a mid-range card.
BYTES_A_SECOND = 22e9
OPERATIONS_A_SECOND = 120e12
# A step of FLUX.1-dev at 1024 x 1024 with one 512 x 512 reference.
OPERATIONS_A_STEP = 95e12
HOST = 128 * 2**30
ASSUMED_COPIES = f"{BYTES_A_SECOND / 1e9:.0f} GB/s from the host, enough of the host's memory"
ASSUMED = (
    f"{ASSUMED_COPIES}, {OPERATIONS_A_SECOND / 1e12:.0f} TFLOP/s, "
    f"{OPERATIONS_A_STEP / 1e12:.0f} TFLOP a step"
)


@dataclass(frozen=True)
class OnCard:
    """A bundle in one precision on one card.

    Attributes:
        gigabytes: the card's memory in GiB.
        precision: the bundle's precision.
        placement: the choice of `auto`; None if nothing fits.
        resident: the bytes of GPU memory in use.
        once, moved: the bytes that are copied to the GPU once a request, and in every step.
        copying: the seconds of a step's copies.
        seconds: the seconds of a step of the full-size model: computing or copying, whichever is
            longer.
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
        """The plan as text."""
        if self.placement is None:
            return "does not fit"
        streamed = self.placement.streamed_blocks
        return self.placement.plan + (f", {streamed} streamed" if streamed else "")


def cards(needed: Mapping[str, Sizes]) -> Iterator[OnCard]:
    """Yields an estimate for every card and precision.

    Args:
        needed: sizes by precision, as `dream_o.runtime.memory_needs.needs` returns them.
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
