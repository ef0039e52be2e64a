"""Whole numbers that arrive with a decimal point."""

from dataclasses import fields
from typing import Any


def settle_whole_numbers(request: Any) -> None:
    """Makes an `int` of every whole `float` in an integer field of a frozen dataclass.

    JSON does not tell 768.0 from 768, so the input schema lets both through.
    """
    for field in fields(request):
        value = getattr(request, field.name)
        if field.type in (int, int | None) and isinstance(value, float) and value.is_integer():
            object.__setattr__(request, field.name, int(value))
