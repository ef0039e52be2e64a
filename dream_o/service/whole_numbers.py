"""Whole numbers that arrive with a decimal point."""

from dataclasses import fields
from typing import Any


def settle_whole_numbers(request: Any) -> None:
    """Converts whole `float` values in integer fields of a frozen dataclass to `int`.

    JSON Schema accepts 768.0 as an integer, so an input can arrive as a float.
    """
    for field in fields(request):
        value = getattr(request, field.name)
        if field.type in (int, int | None) and isinstance(value, float) and value.is_integer():
            object.__setattr__(request, field.name, int(value))
