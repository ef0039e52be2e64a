"""Draws plots as SVG; equal numbers give equal bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("svg")
from matplotlib.figure import Figure

# Text is stored as text, and ids are made with a fixed salt instead of a random one.
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "dream-o", "font.size": 10}
WIDTH = 8.6  # inches


class Point(NamedTuple):
    """A point and its label."""

    x: float
    y: float
    label: str = ""


Points = Sequence[Point]


def curves(title: str, across: str, up: str, lines: Mapping[str, Points]) -> str:
    """Draws named lines through points.

    Args:
        title: the plot's title.
        across, up: the labels of the axes, with units.
        lines: the points of each line, by its name.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
        axes = figure.subplots()
        for name, points in lines.items():
            placed = sorted(points)
            axes.plot([p.x for p in placed], [p.y for p in placed], marker="o", label=name)
            for point in placed:
                axes.annotate(
                    point.label, (point.x, point.y), xytext=(6, 5), textcoords="offset points"
                )
        axes.set(title=title, xlabel=across, ylabel=up)
        axes.grid(alpha=0.3)
        if any(lines):
            axes.legend()
        return _svg(figure)


def bars(title: str, rows: Sequence[Mapping[str, object]], value: str) -> str:
    """Draws a horizontal bar for one column of each row, labelled with the first column."""
    label = next(iter(rows[0]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        names = [str(row[label]) for row in rows]
        drawn = axes.barh(range(len(rows)), [float(str(row[value])) for row in rows])
        axes.bar_label(drawn, fmt="%g", padding=4)
        axes.set_yticks(range(len(rows)), names)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(title=title)
        return _svg(figure)


def _svg(figure: Any) -> str:
    written = io.StringIO()
    # Without a date, equal plots give equal files.
    figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()
