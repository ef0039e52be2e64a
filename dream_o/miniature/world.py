"""The drawn world: what a picture shows, and the picture.

Pictures are made of tiles as large as the transformer's tokens, 16 x 16 pixels of one colour, and
everything but sprinkled tiles (stars, snow, grass) is a function of what the picture shows: then
the colour of a token can be learnt from a few tokens of a picture, and no token need wait for the
others to decide where the subject is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dream_o.miniature.colours import COLOURS, HAIRS, PALETTES, SKINS, in_palette
from dream_o.miniature.faces import LENGTHS, draw_person
from dream_o.miniature.scenes import SCENES, draw_scene
from dream_o.miniature.subjects import PATTERNS, SHAPES, SIDE, draw_subject
from dream_o.sizes import TOKEN_PIXELS

Tiles = NDArray[np.uint8]

# Where things are, in tiles from the picture's top left corner.
SUBJECT_AT = (13, 10)
PERSON_AT = (6, 4)
HELD_AT, HELD_SIDE = (33, 31), 16

# A portrait is a face of the size that the cascades like, on a plain ground.
PORTRAIT_SIDE, PORTRAIT_AT = 40, (2, -2)


@dataclass(frozen=True)
class Subject:
    """A thing: a key of SHAPES, of COLOURS, and one of PATTERNS."""

    shape: str
    colour: str
    pattern: str


@dataclass(frozen=True)
class Person:
    """Somebody: a key of SKINS, of HAIRS, one of LENGTHS, and the shirt's key of COLOURS."""

    skin: str
    hair: str
    length: str
    shirt: str


@dataclass(frozen=True)
class Picture:
    """What a picture shows. At least one of subject and person is there.

    Attributes:
        scene: a key of SCENES.
        subject: in the middle, or held by the person.
        person: in the middle.
        palette: a key of PALETTES, or None for all colours.
    """

    scene: str
    subject: Subject | None = None
    person: Person | None = None
    palette: str | None = field(default=None)


def draw_tiles(picture: Picture, rows: int, columns: int, random: np.random.Generator) -> Tiles:
    """The picture in tiles, `(rows, columns, 3)` uint8; only sprinkled tiles are random."""
    tiles = draw_scene(picture.scene, rows, columns, random)
    if picture.person is not None:
        person = picture.person
        drawn, there = draw_person(person.skin, person.hair, person.length, person.shirt)
        _put(tiles, drawn, there, PERSON_AT)
    if picture.subject is not None:
        subject = picture.subject
        drawn, there = draw_subject(subject.shape, subject.colour, subject.pattern)
        at = SUBJECT_AT
        if picture.person is not None:
            nearest = (np.arange(HELD_SIDE) + 0.5) * SIDE / HELD_SIDE
            rows_columns = np.ix_(nearest.astype(int), nearest.astype(int))
            drawn, there, at = drawn[rows_columns], there[rows_columns], HELD_AT
        _put(tiles, drawn, there, at)
    return in_palette(tiles, picture.palette) if picture.palette else tiles


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
    """Tiles as an RGB image, TOKEN_PIXELS pixels a tile."""
    return Image.fromarray(tiles.repeat(TOKEN_PIXELS, axis=0).repeat(TOKEN_PIXELS, axis=1))


def draw_cut_out(subject: Subject) -> Image.Image:
    """The subject alone, 512 x 512 `RGBA`, transparent around it."""
    tiles, there = draw_subject(subject.shape, subject.colour, subject.pattern)
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
    """The person's head and shoulders on a plain ground, 640 x 640 `RGB`."""
    tiles = np.full((PORTRAIT_SIDE, PORTRAIT_SIDE, 3), ground, np.uint8)
    drawn, there = draw_person(person.skin, person.hair, person.length, person.shirt)
    _put(tiles, drawn, there, PORTRAIT_AT)
    return to_image(tiles)


def random_subject(random: np.random.Generator) -> Subject:
    """Any thing."""
    return Subject(_any(random, SHAPES), _any(random, COLOURS), _any(random, PATTERNS))


def random_person(random: np.random.Generator) -> Person:
    """Anybody."""
    return Person(
        _any(random, SKINS), _any(random, HAIRS), _any(random, LENGTHS), _any(random, COLOURS)
    )


def random_scene(random: np.random.Generator) -> str:
    """Any place."""
    return _any(random, SCENES)


def random_palette(random: np.random.Generator) -> str:
    """Any palette."""
    return _any(random, PALETTES)


def _any(random: np.random.Generator, names: Iterable[str]) -> str:
    options = tuple(names)
    return options[int(random.integers(len(options)))]
