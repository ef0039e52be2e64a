"""Parses prompts with rules, to draw references without a model."""

from collections.abc import Mapping

from training.miniature.captions import (
    HAIR_WORDS,
    LONG_HAIRED,
    PERSON_WORDS,
    SHIRT_WORDS,
    SKIN_WORDS,
    Said,
)
from training.world.colours import COLOURS
from training.world.faces import LENGTHS, WORN
from training.world.words import (
    PATTERN_WORDS,
    SCENE_PHRASES,
    THING_WORDS,
    UNCHANGED_PLURALS,
    plural,
)


def understand(text: str) -> Said:
    """Parses what a prompt says.

    Unknown words are ignored. A colour belongs to the shirt if a word for a shirt comes next, to
    the hair if it is a hair colour, and to the subject otherwise; the first colour counts.
    """
    words = text.lower().replace(",", " ").replace(".", " ").split()
    lists: tuple[tuple[str, Mapping[str, tuple[str, ...]]], ...] = (
        ("shape", THING_WORDS),
        ("pattern", PATTERN_WORDS),
        ("hair", HAIR_WORDS),
        ("skin", SKIN_WORDS),
    )
    meaning = {
        word: (name, value)
        for name, table in lists
        for value, options in table.items()
        for option in options
        for word in [option.split()[-1]]
    }
    plurals = {plural(word): value for word, (name, value) in meaning.items() if name == "shape"}
    meaning |= {word: ("shape", value) for word, value in plurals.items()}
    meaning |= {word: ("length", word) for word in LENGTHS}
    meaning |= {word: ("wears", word) for word in WORN}
    meaning |= {
        "two": ("count", "two"),
        "pair": ("count", "two"),
        "stripes": ("pattern", "striped"),
        "dots": ("pattern", "dotted"),
        "spots": ("pattern", "dotted"),
    }
    scenes = {
        phrase.split()[-1]: scene
        for scene, phrases in SCENE_PHRASES.items()
        for phrase in phrases
        if phrase.split()[-1] not in ("room", "day")
    }
    scenes |= {"room": "room", "snowy": "snow"}
    said: Said = {}
    people = [word for word in words if word in PERSON_WORDS or word in ("portrait", "face")]
    if any(word in LONG_HAIRED for word in people):
        said["length"] = "long"
    for place, word in enumerate(words):
        if words[max(0, place - 2) : place] == ["under", "the"] and word in scenes:
            said["scene"] = scenes[word]
        elif word in COLOURS:
            following = words[place + 1 : place + 2]
            said.setdefault(
                "shirt" if following and following[0] in SHIRT_WORDS else "colour", word
            )
        elif word in meaning:
            name, value = meaning[word]
            said[name] = value
            if word in plurals and word not in UNCHANGED_PLURALS:
                said["count"] = "two"
        elif word in scenes:
            said["scene"] = scenes[word]
    is_thing = "shape" in said
    if people:
        said.pop("count", None)  # only an image without a person shows two things
    said["kind"] = "both" if people and is_thing else "person" if people else "subject"
    return said
