"""The words that prompts of the drawn world use."""

from collections.abc import Mapping, Sequence

import numpy as np

THING_WORDS: Mapping[str, tuple[str, ...]] = {
    "heart": ("heart", "heart"),
    "star": ("star", "starfish"),
    "mug": ("mug", "cup", "coffee mug"),
    "fish": ("fish", "goldfish"),
    "house": ("house", "cottage", "hut"),
    "cat": ("cat", "kitten", "kitty"),
    "shoe": ("shoe", "shoe", "sneaker", "boot"),
    "dog": ("dog", "dog", "puppy"),
    "car": ("car",),
    "tree": ("tree",),
    "bird": ("bird",),
    "boat": ("boat", "ship"),
    "flower": ("flower", "flower", "rose", "tulip"),
    "ball": ("ball",),
    "bottle": ("bottle", "vase"),
}
"""The nouns of each thing."""

UNCHANGED_PLURALS = ("fish", "goldfish", "starfish")
PATTERN_WORDS: Mapping[str, tuple[str, ...]] = {
    "plain": ("plain",),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}
PATTERN_ENDS: Mapping[str, tuple[str, ...]] = {
    "plain": ("without a pattern",),
    "striped": ("with stripes",),
    "dotted": ("with dots", "with spots"),
}
SCENE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass", "in a field", "in the park", "outdoors in summer"),
    "beach": ("on the beach", "by the sea", "at the seaside", "on the sand"),
    "night": ("at night", "under the stars", "in the moonlight", "under the moon"),
    "snow": ("in the snow", "in winter", "on a snowy day"),
    "room": ("in a room", "indoors", "in the kitchen", "in the living room"),
}
OPENINGS = ("", "", "", "a picture of", "a photo of", "an image of", "pixel art of", "a drawing of")
OTHER_WORDS = (
    "very",
    "nice",
    "cute",
    "beautiful",
    "small",
    "big",
    "with",
    "and",
    "the",
    "a",
    "of",
    "on",
    "high",
    "quality",
    "detailed",
    "this",
    "is",
    "standing",
    "sitting",
    "smiling",
)


def plural(noun: str) -> str:
    """The plural of a noun of THING_WORDS."""
    if noun in UNCHANGED_PLURALS:
        return noun
    return f"{noun[:-1]}ies" if noun[-1] == "y" else f"{noun}s"


def one_of(random: np.random.Generator, options: Sequence[str]) -> str:
    """A random one of the options."""
    return options[int(random.integers(len(options)))]


def with_noise(text: str, random: np.random.Generator) -> str:
    """The text with filler words and unknown words inserted."""
    words = text.split(" ")
    for _ in range(random.integers(1, 5)):
        if random.random() < 0.6:
            letters = random.integers(97, 123, random.integers(3, 9))
            word = "".join(chr(letter) for letter in letters)
        else:
            word = one_of(random, OTHER_WORDS[:6])
        # At any place between two words, so never inside "[ref#1]".
        words.insert(random.integers(len(words) + 1), word)
    return " ".join(words)
