"""Captions of DreamRender's miniature: what users, the enhancer, designer and styles write."""

import random as python_random
import re
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from dream_o.dream_render.phrases import join
from dream_o.dream_render.prompts import DESIGNER_NEGATIVE, DESIGNER_PROMPT
from dream_o.dream_render.styles import PLACEHOLDER, known_styles
from training.enhancer.__main__ import PHRASES, continuation
from training.sd_miniature.images import COLOURS, GROUNDS, THINGS, Shown, random_shown
from training.world.looks import LOOKS
from training.world.scenes import PLAIN
from training.world.subjects import PATTERNS
from training.world.words import (
    OPENINGS,
    OTHER_WORDS,
    PATTERN_ENDS,
    PATTERN_WORDS,
    SCENE_PHRASES,
    THING_WORDS,
    one_of,
    with_noise,
)

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "thing": THINGS,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "ground": GROUNDS,
    "style": tuple(LOOKS),
}
"""The attributes of an image that a caption can name; each is optional."""

GROUND_PHRASES: Mapping[str, tuple[str, ...]] = {
    **SCENE_PHRASES,
    **{name: (f"on a {name} background", f"on {name}", f"against a {name} wall") for name in PLAIN},
}
# One combination in this many is held out.
HELD_OUT = 10
# The shares of captions that say nothing, that are negative prompts, and that name one attribute.
EMPTY, NEGATIVE, FRAGMENT = 0.10, 0.05, 0.08
# The shares of the other captions with meaningless words, with the designer's words, with the
# enhancer's phrases, and with a style.
NOISY, DESIGNED, ENHANCED, STYLED = 0.2, 0.1, 0.35, 0.35


@dataclass(frozen=True)
class Caption:
    """A prompt, and the values of the ATTRIBUTES that it names."""

    text: str
    said: Mapping[str, str]


def random_caption(random: np.random.Generator) -> Caption:
    """A random caption, in a random wording."""
    kind = random.random()
    if kind < EMPTY:
        return Caption("", {})
    if kind < EMPTY + NEGATIVE:
        return Caption(_negative(random), {})
    if kind < EMPTY + NEGATIVE + FRAGMENT:
        return _fragment(random)
    return _whole(random)


def random_example(random: np.random.Generator) -> tuple[str, Shown]:
    """A random prompt and an image that fits it, of a combination that is not held out."""
    while True:
        caption = random_caption(random)
        shown = _fitting(caption, random)
        if not is_held_out(shown):
            return caption.text, shown


def held_out_examples(count: int) -> list[tuple[str, Shown]]:
    """Prompts that name a thing, its colour and the ground, of held-out combinations.

    They are the same in every call.
    """
    random = np.random.default_rng(2611)
    found: list[tuple[str, Shown]] = []
    while len(found) < count:
        shown = replace(random_shown(random), pattern="plain", style=None)
        if is_held_out(shown):
            said = {"thing": shown.thing, "colour": shown.colour, "ground": shown.ground}
            found.append((describe(said, random), shown))
    return found


def is_held_out(shown: Shown) -> bool:
    """Whether the combination of thing, colour and ground is held out, in any pattern and style."""
    return zlib.crc32(f"{shown.thing} {shown.colour} {shown.ground}".encode()) % HELD_OUT == 0


def _fitting(caption: Caption, random: np.random.Generator) -> Shown:
    """A random image that the caption describes; it has a pattern or a style only if named."""
    plain = {"style": None} if not caption.said else {"style": None, "pattern": "plain"}
    return replace(random_shown(random), **(plain | dict(caption.said)))  # type: ignore[arg-type]


def describe(said: Mapping[str, str], random: np.random.Generator) -> str:
    """A prompt that names a thing, and optionally its colour, its pattern and the ground."""
    before, after = [], ""
    if "pattern" in said:
        if random.random() < 0.7:
            before.append(one_of(random, PATTERN_WORDS[said["pattern"]]))
        else:
            after = " " + one_of(random, PATTERN_ENDS[said["pattern"]])
    if "colour" in said:
        before.insert(random.integers(len(before) + 1), said["colour"])
    noun = one_of(random, THING_WORDS[said["thing"]]) if "thing" in said else "thing"
    article = ("a", "a", "one", "the", "")[random.integers(5)]
    thing = " ".join([article, *before, noun]).strip() + after
    text = f"{one_of(random, OPENINGS)} {thing}".strip()
    if "ground" in said:
        phrase = one_of(random, GROUND_PHRASES[said["ground"]])
        text = f"{phrase}, {text}" if random.random() < 0.15 else f"{text} {phrase}"
    return text


def _whole(random: np.random.Generator) -> Caption:
    shares = {"thing": 0.95, "colour": 0.85, "pattern": 0.2, "ground": 0.8}
    said = {
        name: one_of(random, ATTRIBUTES[name])
        for name, share in shares.items()
        if random.random() < share
    }
    text = describe(said, random)
    if random.random() < NOISY:
        text = with_noise(text, random)
    addition = random.random()
    if addition < DESIGNED:
        said["ground"] = "light grey"
        text = join(text, DESIGNER_PROMPT)
    elif addition < DESIGNED + ENHANCED:
        chance = python_random.Random(int(random.integers(2**32)))
        text = join(text, ", ".join(continuation(phrases(), chance)))
    if random.random() < STYLED:
        said["style"] = one_of(random, ATTRIBUTES["style"])
        text = known_styles()[said["style"]].prompt.replace(PLACEHOLDER, text)
    return Caption(text, said)


def _fragment(random: np.random.Generator) -> Caption:
    name = one_of(random, ("thing", "colour", "pattern", "ground"))
    value = one_of(random, ATTRIBUTES[name])
    words = {
        "thing": THING_WORDS,
        "colour": {value: (value,)},
        "pattern": PATTERN_WORDS,
        "ground": GROUND_PHRASES,
    }[name][value]
    text = one_of(random, words)
    if random.random() < 0.4:
        text = join(text, _negative(random))
    return Caption(text, {name: value})


def _negative(random: np.random.Generator) -> str:
    if random.random() < 0.2:
        return DESIGNER_NEGATIVE
    return known_styles()[one_of(random, tuple(LOOKS))].negative


@cache
def phrases() -> Mapping[str, Any]:
    """The phrases of the enhancer's training."""
    with PHRASES.open("rb") as file:
        return tomllib.load(file)


def vocabulary() -> list[str]:
    """Every word of a caption, of a style and of the enhancer's phrases, sorted."""
    tables = (THING_WORDS, PATTERN_WORDS, PATTERN_ENDS, GROUND_PHRASES)
    texts = [text for table in tables for options in table.values() for text in options]
    texts += [*COLOURS, *OPENINGS, *OTHER_WORDS, "thing", DESIGNER_PROMPT, DESIGNER_NEGATIVE]
    texts += [text for style in known_styles().values() for text in (style.prompt, style.negative)]
    texts += enhancer_texts()
    return sorted({word for text in texts for word in words_of(text)})


def words_of(text: str) -> list[str]:
    """The words of a text, without digits and signs."""
    return re.findall(r"[a-z]+", text.lower())


def enhancer_texts() -> list[str]:
    """Every phrase, subject and link of the enhancer's training."""
    return list(_texts(phrases()))


def _texts(tree: Any) -> Iterator[str]:
    """All strings of a table of tables and lists."""
    if isinstance(tree, str):
        yield tree
        return
    for each in tree.values() if isinstance(tree, Mapping) else tree:
        yield from _texts(each)
