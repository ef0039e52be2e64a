"""Captions of images, and the contents that a caption describes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dream_o.service.request import STYLE_TRIGGER
from training.world.colours import COLOURS, HAIRS, SKINS
from training.world.drawing import Contents, Person, Subject
from training.world.faces import BARE, LENGTHS, WORN
from training.world.scenes import SCENES
from training.world.subjects import ALL_SHAPES, PATTERNS
from training.world.words import (
    OPENINGS,
    OTHER_WORDS,
    PATTERN_ENDS,
    PATTERN_WORDS,
    SCENE_PHRASES,
    THING_WORDS,
    one_of,
    plural,
)

KINDS = ("subject", "person", "both")

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "kind": KINDS,
    "shape": tuple(ALL_SHAPES),
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "count": ("two",),
    "scene": tuple(SCENES),
    "skin": tuple(SKINS),
    "hair": tuple(HAIRS),
    "length": LENGTHS,
    "shirt": tuple(COLOURS),
    "wears": WORN,
}
"""The attributes that a caption can name; each is optional."""

# How often a caption names attributes that most captions leave out.
RARE: Mapping[str, float] = {"count": 0.2, "wears": 0.35}

PAIRS = ("two", "two", "two", "a pair of", "")
"""The words before two things; a plural without any also means two."""
WORN_PHRASES: Mapping[str, tuple[str, ...]] = {
    "hat": ("in a hat", "with a hat", "wearing a hat"),
    "glasses": ("with glasses", "in glasses", "wearing glasses"),
}

SKIN_WORDS: Mapping[str, tuple[str, ...]] = {
    "pale": ("pale", "fair", "light"),
    "tan": ("tan", "tanned", "olive"),
    "dark": ("dark",),
}
HAIR_WORDS: Mapping[str, tuple[str, ...]] = {
    "black": ("black",),
    "brown": ("brown",),
    "blond": ("blond", "blonde"),
    "ginger": ("ginger", "auburn"),
    "grey": ("grey", "gray"),
}
PERSON_WORDS = ("person", "woman", "man", "girl", "boy", "human", "somebody")
KIND_WORDS: Mapping[str, tuple[str, ...]] = {
    "subject": ("a thing",),
    "person": PERSON_WORDS,
    "both": ("a person and a thing",),
}
# People with these names have long hair unless the caption says otherwise.
LONG_HAIRED = ("woman", "girl")
SHIRT_WORDS = ("shirt", "jumper", "sweater", "t-shirt")
DEFAULT_COLOURS: Mapping[str, str] = {
    "heart": "red",
    "star": "yellow",
    "mug": "blue",
    "fish": "orange",
    "house": "pink",
    "cat": "purple",
    "shoe": "red",
    "dog": "orange",
    "car": "red",
    "tree": "green",
    "bird": "blue",
    "boat": "blue",
    "flower": "pink",
    "ball": "orange",
    "bottle": "green",
}
DEFAULTS: Mapping[str, str] = {
    "kind": "subject",
    "shape": "heart",
    "pattern": "plain",
    "count": "one",
    "scene": "meadow",
    "skin": "tan",
    "hair": "brown",
    "length": "short",
    "shirt": "blue",
    "wears": BARE,
}

Said = dict[str, str]


@dataclass(frozen=True)
class Caption:
    """A prompt, and the values of the ATTRIBUTES that it names."""

    text: str
    said: Said


def contents_of(said: Mapping[str, str], palette: str | None = None) -> Contents:
    """The contents that a caption describes, with defaults for attributes that it does not name."""
    whole = {**DEFAULTS, **said}
    kind = whole["kind"]
    subject = person = None
    if kind in ("subject", "both"):
        colour = whole.get("colour", DEFAULT_COLOURS[whole["shape"]])
        subject = Subject(whole["shape"], colour, whole["pattern"], whole["count"])
    if kind in ("person", "both"):
        look = (whole[name] for name in ("skin", "hair", "length", "shirt", "wears"))
        person = Person(*look)
    return Contents(whole["scene"], subject, person, palette)


def said_of(contents: Contents) -> Said:
    """All attributes that a caption can name of an image."""
    said: Said = {"scene": contents.scene}
    if contents.subject is not None:
        said |= vars(contents.subject)
    if contents.person is not None:
        said |= vars(contents.person)
    kinds = {(True, False): "subject", (False, True): "person", (True, True): "both"}
    said["kind"] = kinds[contents.subject is not None, contents.person is not None]
    return {name: value for name, value in said.items() if value in ATTRIBUTES[name]}


def _subject_phrase(said: Mapping[str, str], random: np.random.Generator, article: str) -> str:
    before, after = [], ""
    if "pattern" in said:
        if random.random() < 0.75:
            before.append(one_of(random, PATTERN_WORDS[said["pattern"]]))
        else:
            after = " " + one_of(random, PATTERN_ENDS[said["pattern"]])
    if "colour" in said:
        before.insert(random.integers(len(before) + 1), said["colour"])
    noun = one_of(random, THING_WORDS[said["shape"]]) if "shape" in said else "thing"
    if "count" in said:
        options = PAIRS[:-1] if plural(noun) == noun else PAIRS
        article, noun = one_of(random, options), plural(noun)
    elif article == "a" and random.random() < 0.08:
        article = "one"
    return " ".join([article, *before, noun]).strip() + after


def _person_phrase(said: Said, random: np.random.Generator) -> str:
    words: tuple[str, ...] = PERSON_WORDS
    if said.get("length") != "long":
        words = tuple(word for word in words if word not in LONG_HAIRED)
    noun = one_of(random, words)
    if noun in LONG_HAIRED:
        said["length"] = "long"
    parts = []
    if "skin" in said:
        parts.append(f"{one_of(random, SKIN_WORDS[said['skin']])} skin")
    hair = [said["length"]] if "length" in said and noun not in LONG_HAIRED else []
    if noun in LONG_HAIRED and random.random() < 0.5:
        hair = ["long"]
    if "hair" in said:
        hair.append(one_of(random, HAIR_WORDS[said["hair"]]))
    if hair:
        parts.append(" ".join([*hair, "hair"]))
    if random.random() < 0.5:
        parts.reverse()
    text = f"a {noun}" + (f" with {' and '.join(parts)}" if parts else "")
    if "shirt" in said:
        text += f" in a {said['shirt']} {one_of(random, SHIRT_WORDS)}"
    return text


def _worn(said: Said, random: np.random.Generator) -> str:
    return f" {one_of(random, WORN_PHRASES[said['wears']])}" if "wears" in said else ""


# Names of the thing, by reference and kind.
THING_NAMES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("ip", "subject"): ("[ref#1]", "the subject of [ref#1]", "it"),
    ("both", "both"): ("[ref#2]", "the subject of [ref#2]"),
}


def describe(
    said: Said, random: np.random.Generator, reference: str = "", style: bool = False
) -> Caption:
    """A prompt that names these attributes, in one of many wordings.

    Args:
        said: values of ATTRIBUTES, including `kind`.
        random: chooses the words.
        reference: `ip`, `id` or `both` (the person is the first); the prompt can then name the
            reference instead of its attributes.
        style: whether the prompt starts with the style task's sentence.
    """
    said = dict(said)
    kind = said["kind"]
    person = _person_phrase(said, random) if kind != "subject" else ""
    worn = _worn(said, random)
    if reference in ("id", "both") and random.random() < 0.3:
        shirt = f" in a {said['shirt']} shirt" if "shirt" in said else ""
        person = one_of(random, ("[ref#1]", "the person in [ref#1]", "this person")) + shirt
        said = {name: said[name] for name in said if name not in ("skin", "hair", "length")}
    person += worn
    thing = ""
    if kind != "person":
        article = one_of(random, ("the", "this", "a")) if reference else "a"
        thing = _subject_phrase(said, random, article)
        names = THING_NAMES.get((reference, kind), ())
        if names and "shape" not in said and random.random() < 0.6:
            thing = one_of(random, names)
            said = {name: said[name] for name in said if name not in ("colour", "pattern")}
    middle = {
        "subject": thing,
        "person": person,
        "both": f"{person} {one_of(random, ('holding', 'with', 'and'))} {thing}",
    }[kind]
    text = f"{one_of(random, OPENINGS)} {middle}".strip()
    if "scene" in said:
        phrase = one_of(random, SCENE_PHRASES[said["scene"]])
        text = f"{phrase}, {text}" if random.random() < 0.15 else f"{text} {phrase}"
    if style:
        text = f"{STYLE_TRIGGER} {text}"
    return Caption(text, said)


def fragment(name: str, value: str, random: np.random.Generator) -> str:
    """A prompt that names only one attribute, as negative prompts do."""
    options: Mapping[str, tuple[str, ...]] = {
        "kind": KIND_WORDS.get(value, ()),
        "shape": THING_WORDS.get(value, ()),
        "colour": (value, value, f"a {value} thing"),
        "pattern": PATTERN_WORDS.get(value, ()),
        "count": PAIRS[:-1],
        "scene": (value, *SCENE_PHRASES.get(value, ())),
        "skin": tuple(f"{word} skin" for word in SKIN_WORDS.get(value, ())),
        "hair": tuple(f"{word} hair" for word in HAIR_WORDS.get(value, ())),
        "length": (f"{value} hair",),
        "shirt": (f"a {value} shirt",),
        "wears": (value, f"a {value}"),
    }
    return one_of(random, options[name])


def vocabulary() -> list[str]:
    """Every word that a caption can contain, sorted."""
    tables = (
        THING_WORDS,
        PATTERN_WORDS,
        PATTERN_ENDS,
        SCENE_PHRASES,
        SKIN_WORDS,
        HAIR_WORDS,
        WORN_PHRASES,
    )
    phrases = [phrase for table in tables for options in table.values() for phrase in options]
    phrases += [plural(phrase) for options in THING_WORDS.values() for phrase in options]
    phrases += [*COLOURS, *LENGTHS, *PERSON_WORDS, *SHIRT_WORDS, *OPENINGS, *OTHER_WORDS]
    phrases += [*SCENES, *PAIRS, "skin hair in one thing things it subject person holding"]
    phrases.append(STYLE_TRIGGER)
    words = {
        word
        for phrase in phrases
        for word in phrase.lower().replace(".", " ").replace("-", " ").split()
    }
    return sorted(words | {".", ",", "-", "!", "?"})


def random_said(random: np.random.Generator, kind: str, share: float = 0.8) -> Said:
    """Random attributes for a caption of this kind; each is sometimes left out.

    Only a caption without a person names two things.
    """
    thing, person = ("shape", "colour", "pattern"), ("skin", "hair", "length", "shirt", "wears")
    groups = {"subject": (*thing, "count"), "person": person, "both": (*thing, *person)}
    said: Said = {"kind": kind}
    for name in (*groups[kind], "scene"):
        usual = share if name != "shape" else 1 - (1 - share) / 2
        if random.random() < RARE.get(name, usual):
            said[name] = one_of(random, ATTRIBUTES[name])
    return said
