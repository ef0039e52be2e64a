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
from safetensors.torch import save

from dream_o.atomic import atomic_write
from dream_o.errors import InputError
from dream_o.references import prepare
from dream_o.sampling import pack
from training.miniature.autoencoder import tile_latents, to_unit
from training.miniature.colours import COLOURS, HAIRS, PALETTES, SKINS
from training.miniature.examples import PHOTOGRAPHS, Reference
from training.miniature.faces import LENGTHS
from training.miniature.subjects import PATTERNS, SHAPES
from training.miniature.world import (
    Oddment,
    Person,
    Picture,
    Subject,
    draw_cut_out,
    draw_portrait,
    draw_thing,
    draw_tiles,
    random_person,
    random_scene,
    random_subject,
    to_image,
)

RESOLUTION = 512
COLOUR_CHANNELS = 12  # of a packed latent's 64; they hold a tile's colour four times
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
        with atomic_write(path) as file:
            file.write(save({"latents": self.latents}, {"places": json.dumps(self.places)}))

    def find(self, reference: Reference, random: np.random.Generator) -> torch.Tensor:
        """The packed latents `(GRID * GRID, 64)` of one image that shows this.

        Those of an oddment that is not photographed are not kept: they are known without the VAE
        (`tile_latents`), half of the time with noise in the channels of what is finer than a tile.
        """
        if isinstance(reference.shows, Oddment) and not reference.shows.photographed:
            latents = tile_latents(to_unit(draw_thing(reference.shows)[0])).flatten(0, 1)
            if random.random() < 0.5:
                finer = latents[:, COLOUR_CHANNELS:]
                finer += float(random.uniform(0, 1)) * torch.from_numpy(
                    random.standard_normal(finer.shape, np.float32)
                )
            return latents
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
    """An image of a reference, as a user would make or find it."""
    if isinstance(reference.shows, Subject | Oddment):
        return draw_cut_out(reference.shows)
    if isinstance(reference.shows, Person):
        return draw_portrait(reference.shows, GROUNDS[random.integers(len(GROUNDS))])
    return to_image(draw_tiles(reference.shows, 64, 64, random))


def references(random: np.random.Generator, share: float = 1.0) -> list[Reference]:
    """All that the pool holds; `share` below 1 takes fewer."""
    wanted = [Reference("ip", Subject(*look)) for look in product(SHAPES, COLOURS, PATTERNS)]
    wanted += [Reference("ip", Oddment(seed, photographed=True)) for seed in range(PHOTOGRAPHS)]
    for skin, hair, length in product(SKINS, HAIRS, LENGTHS):
        wanted += [
            Reference("id", Person(skin, hair, length, str(random.choice([*COLOURS]))))
            for _ in range(2)
        ]
    for palette in PALETTES:
        for number in range(12):
            subject = random_subject(random) if number % 3 else None
            person = None if subject else random_person(random)
            picture = Picture(random_scene(random), subject, person, palette)
            wanted.append(Reference("style", picture))
    keep = max(1, round(1 / share))
    return wanted[::keep]


@torch.no_grad()
def fill_pool(vae: AutoencoderKL, random: np.random.Generator, share: float = 1.0) -> Pool:
    """Draws, prepares and encodes all references."""
    pool = Pool()
    rows: list[torch.Tensor] = []
    for reference in references(random, share):
        image = drawn(reference, random)
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
