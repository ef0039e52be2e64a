"""Seeds: which are allowed, and a fresh one when none is asked for."""

import logging
import secrets

from dream_o.errors import InputError

logger = logging.getLogger(__name__)

RANDOM = -1
LARGEST = 2**63 - 1
# Fresh seeds are short enough to read out, and exact in JSON readers that have only doubles.
FRESH_BITS = 32


def choose_seed(seed: int | None) -> int:
    """`seed`, or a fresh one from the system's entropy when it is None or -1; either is logged.

    Raises:
        InputError: a seed below -1 or above 2^63 - 1.
    """
    if seed is None or seed == RANDOM:
        seed = secrets.randbits(FRESH_BITS)
    elif not 0 <= seed <= LARGEST:
        raise InputError("seed", f"{seed} is out of range; use 0 to 2^63-1, or -1 for a random one")
    logger.info("seed: %d", seed)
    return seed
