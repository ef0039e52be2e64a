"""Refusing a name that a list does not have, with the nearest that it has."""

import difflib
from collections.abc import Collection

from dream_o.errors import InputError

NEAREST = 3


def unknown_name(field: str, name: str, known: Collection[str], listing: str) -> InputError:
    """The error for an unknown name.

    Args:
        field: the input.
        name: what was given; only its beginning is repeated.
        known: the names there are.
        listing: the command that shows them all.
    """
    by_lower = {each.lower(): each for each in known}
    # The cutoff lets everything through: there is always a nearest name.
    nearest = difflib.get_close_matches(name.lower()[:80], by_lower, NEAREST, cutoff=0.0)
    offered = ", ".join(by_lower[each] for each in nearest)
    return InputError(
        field, f"{name[:80]!r} is not known; the nearest are {offered}; all: {listing}"
    )
