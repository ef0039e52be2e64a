"""Who may ask: developer keys."""

import hmac
from collections.abc import Sequence

from dream_o.errors import InputError


def check_dev_key(given: str, accepted: Sequence[str]) -> None:
    """Refuses a key that is not among the accepted ones.

    The time does not tell how much of a key was right, nor which key it was: every accepted key
    is compared, each in constant time.

    Raises:
        InputError: `dev_key` is not recognised, or there is no accepted key at all.
    """
    if not accepted:
        raise InputError(
            "dev_key",
            "no key is accepted, because DREAM_RENDER_DEV_KEYS is not set on the server; "
            "set it to the accepted keys, separated by commas",
        )
    # Bytes, because compare_digest takes no text beyond ASCII.
    offered = given.encode("utf-8", "surrogatepass")
    matches = [hmac.compare_digest(offered, key.encode("utf-8")) for key in accepted]
    if not any(matches):
        raise InputError("dev_key", "not recognised")
