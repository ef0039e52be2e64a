"""Training references: drawn, prepared and encoded once, before the transformer's training."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from tqdm import tqdm

from dream_o.atomic import atomic_write
from dream_o.errors import InputError
from dream_o.references import prepare
from dream_o.sampling import pack
from dream_o.service.logs import silence
from training.miniature.autoencoder import tile_latents, to_unit
from training.miniature.examples import PHOTOGRAPHS, Reference
from training.world.colours import COLOURS, HAIRS, PALETTES, SKINS
from training.world.drawing import (
    Contents,
    Oddment,
    Person,
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
from training.world.faces import LENGTHS
from training.world.subjects import ALL_SHAPES, PATTERNS

RESOLUTION = 512
COLOUR_CHANNELS = 12  # of a packed latent's 64; they contain a tile's colour four times
GRID = 32  # rows and columns of a reference's tokens
GROUNDS = ((214, 224, 232), (255, 255, 255), (120, 140, 160), (240, 218, 190), (60, 66, 84))


class Pool:
    """Encoded references by their contents.

    Attributes:
        latents: packed latents, `(references, GRID * GRID, 64)` float16.
        places: the indices in `latents` of the references with the same `key`.
    """

    def __init__(self) -> None:
        self.latents = torch.empty(0)
        self.places: dict[str, list[int]] = {}

    @classmethod
    def load(cls, path: Path) -> "Pool":
        """Loads a pool that `save` wrote."""
        pool = cls()
        with safe_open(path, "pt") as file:
            pool.latents = file.get_tensor("latents")
            pool.places = json.loads(file.metadata()["places"])
        return pool

    @classmethod
    def joined(cls, parts: Iterable["Pool"]) -> "Pool":
        """A pool of all references of the parts."""
        pool = cls()
        latents: list[torch.Tensor] = []
        for part in parts:
            start = sum(map(len, latents))
            for name, places in part.places.items():
                pool.places.setdefault(name, []).extend(start + place for place in places)
            latents.append(part.latents)
        pool.latents = torch.cat(latents)
        return pool

    def save(self, path: Path) -> None:
        """Writes a safetensors file atomically."""
        with atomic_write(path) as file:
            file.write(save({"latents": self.latents}, {"places": json.dumps(self.places)}))

    def find(self, reference: Reference, random: np.random.Generator) -> torch.Tensor:
        """The packed latents `(GRID * GRID, 64)` of a reference with the same `key`.

        Latents of oddments that are not photographed are not stored but computed without the VAE
        (`tile_latents`); half of them get noise in the channels of finer detail.
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
    """References with the same key can replace each other."""
    if isinstance(reference.shows, Contents):
        return f"style {reference.shows.palette}"
    if isinstance(reference.shows, Person):
        return f"id {replace(reference.shows, shirt='')}"
    return f"ip {reference.shows}"


def drawn(reference: Reference, random: np.random.Generator) -> Image.Image:
    """Draws a reference image, as a user would send it."""
    if isinstance(reference.shows, Subject | Oddment):
        return draw_cut_out(reference.shows)
    if isinstance(reference.shows, Person):
        return draw_portrait(reference.shows, GROUNDS[random.integers(len(GROUNDS))])
    return to_image(draw_tiles(reference.shows, 64, 64, random))


def references(random: np.random.Generator, share: float = 1.0) -> list[Reference]:
    """The references of the pool; a `share` below 1 selects fewer."""
    wanted = [Reference("ip", Subject(*look)) for look in product(ALL_SHAPES, COLOURS, PATTERNS)]
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
            contents = Contents(random_scene(random), subject, person, palette)
            wanted.append(Reference("style", contents))
    keep = max(1, round(1 / share))
    return wanted[::keep]


@torch.no_grad()
def fill_pool(vae: AutoencoderKL, random: np.random.Generator, wanted: Sequence[Reference]) -> Pool:
    """Draws, prepares and encodes references, without the log's line for each."""
    with silence():
        return _filled(vae, random, wanted)


def _filled(vae: AutoencoderKL, random: np.random.Generator, wanted: Sequence[Reference]) -> Pool:
    pool = Pool()
    rows: list[torch.Tensor] = []
    for reference in tqdm(wanted, unit="reference", disable=None):
        image = drawn(reference, random)
        try:
            prepared = prepare(image, reference.task, RESOLUTION, "reference")
        except InputError:  # no cascade finds the face on this background, but on the default one
            if not isinstance(reference.shows, Person):
                raise
            image = draw_portrait(reference.shows)
            prepared = prepare(image, reference.task, RESOLUTION, "reference")
        pixels = to_unit(np.asarray(prepared))[None].permute(0, 3, 1, 2)
        pool.places.setdefault(key(reference), []).append(len(rows))
        rows.append(pack(vae.encode(pixels.to(vae.device)).latent_dist.mode())[0].half().cpu())
    pool.latents = torch.stack(rows)
    return pool
