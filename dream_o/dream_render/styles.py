"""Style presets: words around the prompt, and words against what would spoil the style."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dream_o.dream_render.names import unknown_name

PRESETS = Path(__file__).with_name("styles.toml")
NO_STYLE = "None"
PLACEHOLDER = "{prompt}"
LISTING = "dream-o render styles"


@dataclass(frozen=True)
class Style:
    """A preset: `prompt` holds PLACEHOLDER once, `negative` may be empty."""

    prompt: str
    negative: str


@cache
def known_styles() -> Mapping[str, Style]:
    """The presets of `styles.toml`, by name, in its order."""
    with PRESETS.open("rb") as file:
        return {name: Style(**fields) for name, fields in tomllib.load(file).items()}


def parse_styles(text: str) -> list[Style]:
    """The presets that a `styles` input names, separated by commas, in order; `None` is none.

    Raises:
        InputError: an unknown name; the error offers the nearest ones.
    """
    styles = []
    for name in (each.strip() for each in text.split(",")):
        if name.lower() in ("", NO_STYLE.lower()):
            continue
        if name not in known_styles():
            raise unknown_name("styles", name, [NO_STYLE, *known_styles()], LISTING)
        styles.append(known_styles()[name])
    return styles


def apply_style(style: Style, prompt: str, negative: str) -> tuple[str, str]:
    """The prompt inside the preset's words, and the negative prompt with the preset's after it."""
    # Not str.format: the prompt may hold braces of its own.
    return (
        style.prompt.replace(PLACEHOLDER, prompt),
        ", ".join(part for part in (negative.strip(" ,"), style.negative) if part),
    )
