"""References as the pipeline sees them: prepared and encoded once, before training."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from dream_o.errors import InputError
from dream_o.miniature.autoencoder import to_unit
from dream_o.miniature.captions import LENGTHS
from dream_o.miniature.colours import COLOURS, HAIRS, PALETTES, SKINS
from dream_o.miniature.examples import Reference
from dream_o.miniature.subjects import PATTERNS, SHAPES
from dream_o.miniature.world import (
    Person,
    Picture,
    Subject,
    draw_cut_out,
    draw_portrait,
    draw_tiles,
    random_person,
    random_scene,
    random_subject,
    to_image,
)
from dream_o.references import prepare
from dream_o.sampling import pack

RESOLUTION = 512
GRID = 32  # rows and columns of a reference's tokens
GROUNDS = ((214, 224, 232), (255, 255, 255), (120, 140, 160), (240, 218, 190), (60, 66, 84))


class Pool:
    """Prepared references by what they show.

    Attributes:
        latents: packed, `(references, GRID * GRID, 64)` float16.
        places: the rows of `latents` that show a thing, by a key of `key`.
    """

    def __init__(self) -> None:
        self.latents = torch.empty(0)
        self.places: dict[str, list[int]] = {}

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """The pool in a file that `save` wrote."""
        pool = cls()
        with safe_open(path, "pt") as file:
            pool.latents = file.get_tensor("latents")
            pool.places = json.loads(file.metadata()["places"])
        return pool

    def save(self, path: Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        partial = path.with_name(f".{path.name}.partial")
        save_file({"latents": self.latents}, partial, {"places": json.dumps(self.places)})
        partial.replace(path)

    def find(self, reference: Reference, random: np.random.Generator) -> torch.Tensor:
        """The packed latents `(GRID * GRID, 64)` of one picture that shows this."""
        options = self.places[key(reference)]
        return self.latents[options[random.integers(len(options))]].float()


def key(reference: Reference) -> str:
    """What must be the same in two references for one to serve as the other."""
    if isinstance(reference.shows, Picture):
        return f"style {reference.shows.palette}"
    if isinstance(reference.shows, Person):
        return f"id {replace(reference.shows, shirt='')}"
    return f"ip {reference.shows}"


def drawn(reference: Reference, random: np.random.Generator) -> Image.Image:
    """A picture of a reference, as a user would make or find it."""
    if isinstance(reference.shows, Subject):
        return draw_cut_out(reference.shows)
    if isinstance(reference.shows, Person):
        return draw_portrait(reference.shows, GROUNDS[random.integers(len(GROUNDS))])
    return to_image(draw_tiles(reference.shows, 64, 64, random))


def _moved(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A cut-out at another place and size, in whole tiles or not."""
    side = int(random.integers(300, 512))
    canvas = Image.new("RGBA", (RESOLUTION, RESOLUTION), (255, 255, 255, 0))
    small = image.resize((side, side), Image.Resampling.BOX)
    place = random.integers(0, RESOLUTION - side + 1, 2)
    canvas.paste(small, (int(place[0]), int(place[1])))
    return canvas


def references(random: np.random.Generator, share: float = 1.0) -> list[tuple[Reference, bool]]:
    """All that the pool holds, each with whether it is moved; `share` below 1 takes fewer."""
    wanted: list[tuple[Reference, bool]] = []
    for number, look in enumerate(product(SHAPES, COLOURS, PATTERNS)):
        reference = Reference("ip", Subject(*look))
        wanted += [(reference, False), (reference, True)][: 1 + number % 2]
    for skin, hair, length in product(SKINS, HAIRS, LENGTHS):
        wanted += [
            (Reference("id", Person(skin, hair, length, str(random.choice([*COLOURS])))), False)
            for _ in range(2)
        ]
    for palette in PALETTES:
        for number in range(12):
            subject = random_subject(random) if number % 3 else None
            person = None if subject else random_person(random)
            picture = Picture(random_scene(random), subject, person, palette)
            wanted.append((Reference("style", picture), False))
    keep = max(1, round(1 / share))
    return wanted[::keep]


@torch.no_grad()
def fill_pool(vae: AutoencoderKL, random: np.random.Generator, share: float = 1.0) -> Pool:
    """Draws, prepares and encodes all references."""
    pool = Pool()
    rows: list[torch.Tensor] = []
    for reference, moved in references(random, share):
        image = drawn(reference, random)
        if moved:
            image = _moved(image, random)
        try:
            prepared = prepare(image, reference.task, RESOLUTION, "reference")
        except InputError:  # on this ground no cascade finds the face; on the usual one it does
            if not isinstance(reference.shows, Person):
                raise
            image = draw_portrait(reference.shows)
            prepared = prepare(image, reference.task, RESOLUTION, "reference")
        pixels = to_unit(np.asarray(prepared))[None].permute(0, 3, 1, 2)
        pool.places.setdefault(key(reference), []).append(len(rows))
        rows.append(pack(vae.encode(pixels.to(vae.device)).latent_dist.mode())[0].half().cpu())
    pool.latents = torch.stack(rows)
    return pool
