"""Points over two axes as SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple


class Point(NamedTuple):
    """A point and what is written beside it."""

    x: float
    y: float
    label: str = ""


Points = Sequence[Point]

WIDTH, HEIGHT = 860, 474
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 64, 60
COLOURS = ("#3b6ea5", "#b5532d", "#3f8f5a", "#7a4fa0")
TICKS = 5


def curves(title: str, across: str, up: str, lines: Mapping[str, Points]) -> str:
    """Lines through points, each with its name; both axes begin at the least value.

    Args:
        title: above the plot.
        across, up: what the axes show, with its unit.
        lines: points by the line's name.
    """
    every = [point for points in lines.values() for point in points]
    ends = [_ends([point.x for point in every]), _ends([point.y for point in every])]

    def place(x: float, y: float) -> tuple[float, float]:
        right, above = (
            (value - low) / (high - low) for value, (low, high) in zip((x, y), ends, strict=True)
        )
        return (
            LEFT + right * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - above * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="16" y="28" font-size="16" font-weight="bold">{escape(title)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 14}" text-anchor="end">{escape(across)}</text>',
        f'<text x="16" y="{TOP - 14}">{escape(up)}</text>',
    ]
    for number in range(TICKS):
        share = number / (TICKS - 1)
        values = [low + share * (high - low) for low, high in ends]
        x, y = place(*values)
        parts += [
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{values[1]:.3g}</text>',
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
            f"{values[0]:.4g}</text>",
        ]
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [(*place(point.x, point.y), point.label) for point in sorted(points)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in placed)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
            + (label and f'<text x="{x + 7:.1f}" y="{y - 6:.1f}">{escape(label)}</text>')
            for x, y, label in placed
        ]
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{28 + 18 * number}" text-anchor="end" '
            f'fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """Least and greatest, apart from each other."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
