"""Seeds: the allowed range, random ones, and their conversion for torch."""

import hashlib
import logging
import secrets

from dream_o.errors import InputError

logger = logging.getLogger(__name__)

RANDOM = -1
LARGEST = 2**64 - 1
LARGEST_SIGNED = 2**63 - 1
# Random seeds are short enough to read aloud, and exact in JSON readers that only have doubles.
FRESH_BITS = 32


def check_seed(seed: int | None) -> None:
    """Raises InputError for a seed below -1 or above 2^64 - 1."""
    if seed is not None and not RANDOM <= seed <= LARGEST:
        raise InputError("seed", f"{seed} is out of range; use 0 to 2^64-1, or -1 for a random one")


def choose_seed(seed: int | None) -> int:
    """`seed`, or a random one if it is None or -1; the seed is logged.

    Raises:
        InputError: `seed` is below -1 or above 2^64 - 1.
    """
    check_seed(seed)
    seed = _drawn() if seed is None or seed == RANDOM else seed
    logger.info("seed: %d", seed)
    return seed


def consecutive_seeds(first: int | None, count: int) -> range:
    """The seeds of `count` images: `first`, or a random one if it is None or -1, and the next ones.

    Raises:
        InputError: a seed is below -1 or above 2^64 - 1.
    """
    check_seed(first)
    start = _drawn() if first is None or first == RANDOM else first
    if start + count - 1 > LARGEST:
        raise InputError(
            "seed", f"{start} and the {count - 1} seeds after it go beyond 2^64-1; use a lower one"
        )
    return range(start, start + count)


def _drawn() -> int:
    return secrets.randbits(FRESH_BITS)


def torch_seed(seed: int) -> int:
    """The argument of torch's `manual_seed` for a request's seed.

    Seeds up to 2^63 - 1 are used as they are. Larger ones are hashed, because torch's CPU generator
    reads only the lowest 32 bits: 2^63 + 5 would give the same noise as 5.
    """
    if seed <= LARGEST_SIGNED:
        return seed
    digest = hashlib.sha256(seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little") & LARGEST_SIGNED


def seed_metric(seed: int) -> int | str:
    """The seed as a metric. Cog's metrics are signed 64-bit integers; larger seeds become text."""
    return seed if seed <= LARGEST_SIGNED else str(seed)
