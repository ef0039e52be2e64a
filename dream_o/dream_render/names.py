"""The error for an unknown name, with the nearest known ones."""

import difflib
from collections.abc import Collection

from dream_o.errors import InputError

NEAREST = 3


def unknown_name(field: str, name: str, known: Collection[str], listing: str) -> InputError:
    """The error for an unknown name.

    Args:
        field: the input's name.
        name: the unknown name; the error repeats only its beginning.
        known: the known names.
        listing: the command that lists all of them.
    """
    asked = name.lower()[:80]

    def likeness(each: str) -> tuple[bool, float]:
        ratio = difflib.SequenceMatcher(None, asked, each.lower()).ratio()
        return bool(asked) and asked in each.lower(), ratio

    offered = ", ".join(sorted(known, key=likeness, reverse=True)[:NEAREST])
    return InputError(
        field, f"{name[:80]!r} is not known; the nearest are {offered}; `{listing}` lists all"
    )
