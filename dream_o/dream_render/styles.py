"""Style presets: words around the prompt, and words for the negative prompt."""

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
    """A preset: `prompt` contains PLACEHOLDER once; `negative` may be empty."""

    prompt: str
    negative: str


@cache
def known_styles() -> Mapping[str, Style]:
    """The presets of `styles.toml` by name, in the file's order."""
    with PRESETS.open("rb") as file:
        return {name: Style(**fields) for name, fields in tomllib.load(file).items()}


def parse_styles(text: str) -> list[Style]:
    """The presets that a comma-separated `styles` input names, in order; `None` stands for none.

    Raises:
        InputError: a name is unknown; suggests the nearest ones.
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
    """The prompt inserted into the preset, and the negative prompt followed by the preset's."""
    # Not str.format, because the prompt may contain braces.
    return (
        style.prompt.replace(PLACEHOLDER, prompt),
        ", ".join(part for part in (negative.strip(" ,"), style.negative) if part),
    )
