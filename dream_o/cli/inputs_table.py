"""The inputs of a predictor as a table for `--help`, made from its OpenAPI document."""

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

from dream_o.server.inputs import resolved

FORMATS = {"uri": "file", "password": "secret"}
GAP = "  "
# Wider lines are hard to read; narrower ones leave no room for a description.
MOST_COLUMNS = 110
LEAST_DESCRIPTION = 30


def inputs_table(document: Mapping[str, Any]) -> str:
    """A table of every input's name, type, default, allowed values and description."""
    schema = document["components"]["schemas"]["Input"]
    required = schema.get("required", [])
    rows = [("name", "type", "default", "allowed", "description")]
    for name, described in schema["properties"].items():
        merged = resolved(described, document)
        rows.append(
            (
                name,
                FORMATS.get(merged.get("format", ""), merged["type"]),
                "required" if name in required else _default(merged),
                _allowed(merged),
                merged.get("description", ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    indent = sum(widths) + len(GAP) * (len(widths) + 1)
    columns = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
    wide = max(columns - indent, LEAST_DESCRIPTION)
    lines = []
    for *cells, description in rows:
        head = GAP + "".join(
            cell.ljust(width) + GAP for cell, width in zip(cells, widths, strict=True)
        )
        first, *others = textwrap.wrap(description, wide) or [""]
        lines += [(head + first).rstrip(), *(" " * indent + line for line in others)]
    return "\n".join(["inputs, each given as -i NAME=VALUE:", *lines])


def _default(described: Mapping[str, Any]) -> str:
    value = described.get("default")
    return '""' if value == "" else "none" if value is None else str(value)


def _allowed(described: Mapping[str, Any]) -> str:
    if "enum" in described:
        return ", ".join(map(str, described["enum"]))
    low, high = described.get("minimum"), described.get("maximum")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return "" if high is None else f"{high:g} or less"
