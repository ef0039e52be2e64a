"""Writes a benchmark's results as JSON, as a table and as a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.plot import bars

Row = Mapping[str, object]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, a column for each key."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
    ]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines)


def write(
    folder: Path,
    name: str,
    text: str,
    rows: Sequence[Row],
    value: str,
    facts: Mapping[str, object],
    plots: Mapping[str, str] = {},
) -> None:
    """Writes NAME.json, NAME.svg and NAME.md, and prints the table.

    Args:
        folder: the folder, which is created if needed.
        name: the benchmark's name.
        text: Markdown that says what was measured and how; its first line is the plot's title.
        rows: the table.
        value: the column to plot.
        facts: the machine, and results that are not in the table.
        plots: more plots, SVG by file name without suffix.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = text.splitlines()[0].lstrip("# ")
    result = {"rows": [dict(row) for row in rows], **facts}
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (folder / f"{name}.svg").write_text(bars(f"{title}: {value}", rows, value))
    for stem, plot in plots.items():
        (folder / f"{stem}.svg").write_text(plot)
    shown = "\n\n".join(f"![{title}]({stem}.svg)" for stem in (name, *plots))
    found = "\n".join(f"- {key}: {held}" for key, held in facts.items())
    page = f"{text}\n\n{table(rows)}\n\n{shown}\n\n{found}\n"
    (folder / f"{name}.md").write_text(page)
    print(table(rows))
    print(found)
