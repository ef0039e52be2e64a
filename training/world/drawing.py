"""The drawn world: the contents of images, and the images.

Images consist of tiles of 16 x 16 pixels of one colour, as large as the transformer's tokens. All
tiles except sprinkled ones (stars, snow, grass) are a function of the contents. So the colour of a
token can be learnt from a few tokens of an image, and no token depends on where the others place
the subject.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dream_o.sizes import TOKEN_PIXELS
from training.world.colours import COLOURS, HAIRS, PALETTES, SKINS, in_palette
from training.world.faces import BARE, LENGTHS, draw_person
from training.world.parts import SIDE
from training.world.photographs import photograph, photographed_tiles
from training.world.scenes import SCENES, draw_scene
from training.world.subjects import (
    ALL_SHAPES,
    PATTERNS,
    draw_oddment,
    draw_subject,
)

Tiles = NDArray[np.uint8]

# The positions of a prompt's subject and of people, in tiles from the top left corner.
SUBJECT_AT = (18, 16)
# Two subjects of a prompt are smaller and side by side: the side of their frames, their positions.
PAIR_SIDE = 24
PAIR_AT = ((24, 0), (24, 24))
PERSON_AT = (6, -8)
# A copied subject has the same distance from the lower right corner at every size. The reference's
# tokens start at that corner, so each has a constant offset from the image token with the same
# content. In an image of 48 x 48 tiles this is SUBJECT_AT.
COPY_FROM_END = (30, 32)

# A portrait shows a face at a size that the cascades detect, on a plain background.
PORTRAIT_SIDE, PORTRAIT_AT = 40, (2, -2)


@dataclass(frozen=True)
class Subject:
    """One thing or two of the same look.

    Attributes:
        shape: a key of ALL_SHAPES.
        colour: a key of COLOURS.
        pattern: one of PATTERNS.
        count: one of COUNTS; a reference shows one.
    """

    shape: str
    colour: str
    pattern: str
    count: str = "one"


COUNTS = ("one", "two")


@dataclass(frozen=True)
class Oddment:
    """A thing without a name, which only a reference can show.

    Attributes:
        seed: determines its look.
        photographed: whether it is drawn off the grid of tiles.
    """

    seed: int
    photographed: bool = False


@dataclass(frozen=True)
class Person:
    """A person; the attributes are the arguments of `faces.draw_person`."""

    skin: str
    hair: str
    length: str
    shirt: str
    wears: str = BARE


@dataclass(frozen=True)
class Contents:
    """What an image shows: a subject, a person or both.

    Attributes:
        scene: a key of SCENES.
        subject: the thing, to the right of the person if there is one.
        person: the person, at the left.
        palette: a key of PALETTES, or None for all colours.
        copied: whether the subject comes from a reference; it is then at COPY_FROM_END.
    """

    scene: str
    subject: Subject | Oddment | None = None
    person: Person | None = None
    palette: str | None = None
    copied: bool = False


def draw_tiles(contents: Contents, rows: int, columns: int, random: np.random.Generator) -> Tiles:
    """Draws an image in tiles, `(rows, columns, 3)` uint8; only sprinkled tiles are random."""
    return draw_over(draw_scene(contents.scene, rows, columns, random), contents)


def draw_over(tiles: Tiles, contents: Contents) -> Tiles:
    """Draws the person and the thing into `tiles`, and returns them.

    With a palette, the result is a copy in its ink.
    """
    rows, columns = tiles.shape[:2]
    if contents.person is not None:
        person = contents.person
        _put(tiles, *_draw_person(person), PERSON_AT)
    subject = contents.subject
    if isinstance(subject, Subject) and subject.count == "two":
        look = subject.shape, subject.colour, subject.pattern
        for at in PAIR_AT:
            _put(tiles, *draw_subject(*look, PAIR_SIDE), at)
    elif subject is not None:
        _put(tiles, *draw_thing(subject), subject_at(contents.copied, rows, columns))
    return in_palette(tiles, contents.palette) if contents.palette else tiles


def _draw_person(person: Person) -> tuple[Tiles, NDArray[np.bool_]]:
    return draw_person(person.skin, person.hair, person.length, person.shirt, person.wears)


def draw_thing(thing: Subject | Oddment) -> tuple[Tiles, NDArray[np.bool_]]:
    """Draws a thing in tiles: colours `(SIDE, SIDE, 3)` and its mask `(SIDE, SIDE)`."""
    if isinstance(thing, Oddment):
        return (photographed_tiles if thing.photographed else draw_oddment)(thing.seed)
    return draw_subject(thing.shape, thing.colour, thing.pattern)


def subject_at(copied: bool, rows: int, columns: int) -> tuple[int, int]:
    """The row and column of the first tile of the subject's frame."""
    if copied:
        return rows - COPY_FROM_END[0], columns - COPY_FROM_END[1]
    return SUBJECT_AT


def _put(tiles: Tiles, drawn: Tiles, there: NDArray[np.bool_], at: tuple[int, int]) -> None:
    top, left = at
    if top >= tiles.shape[0] or left >= tiles.shape[1]:
        return
    rows = slice(max(0, top), min(tiles.shape[0], top + drawn.shape[0]))
    columns = slice(max(0, left), min(tiles.shape[1], left + drawn.shape[1]))
    inner = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    target = tiles[rows, columns]
    target[there[inner]] = drawn[inner][there[inner]]


def to_image(tiles: Tiles) -> Image.Image:
    """Converts tiles to an RGB image with TOKEN_PIXELS x TOKEN_PIXELS pixels a tile."""
    return Image.fromarray(tiles.repeat(TOKEN_PIXELS, axis=0).repeat(TOKEN_PIXELS, axis=1))


def draw_cut_out(subject: Subject | Oddment) -> Image.Image:
    """The subject on a transparent background, 512 x 512 `RGBA`."""
    if isinstance(subject, Oddment) and subject.photographed:
        return Image.fromarray(photograph(subject.seed))
    tiles, there = draw_thing(subject)
    alpha = np.where(there, 255, 0).astype(np.uint8)[..., None]
    return Image.fromarray(
        np.asarray(
            cv2.resize(
                np.concatenate([tiles, alpha], axis=-1),
                (SIDE * TOKEN_PIXELS, SIDE * TOKEN_PIXELS),
                interpolation=cv2.INTER_NEAREST,
            )
        )
    )


def draw_portrait(person: Person, ground: tuple[int, int, int] = (214, 224, 232)) -> Image.Image:
    """The person's head and shoulders on a plain background, 640 x 640 `RGB`."""
    tiles = np.full((PORTRAIT_SIDE, PORTRAIT_SIDE, 3), ground, np.uint8)
    _put(tiles, *_draw_person(person), PORTRAIT_AT)
    return to_image(tiles)


def random_subject(random: np.random.Generator) -> Subject:
    """A random thing, one of it."""
    return Subject(_any(random, ALL_SHAPES), _any(random, COLOURS), _any(random, PATTERNS))


def random_person(random: np.random.Generator) -> Person:
    """A random person, who wears neither hat nor glasses."""
    return Person(
        _any(random, SKINS), _any(random, HAIRS), _any(random, LENGTHS), _any(random, COLOURS)
    )


def random_scene(random: np.random.Generator) -> str:
    """A random place."""
    return _any(random, SCENES)


def random_palette(random: np.random.Generator) -> str:
    """A random palette."""
    return _any(random, PALETTES)


def _any(random: np.random.Generator, names: Iterable[str]) -> str:
    options = tuple(names)
    return options[int(random.integers(len(options)))]
