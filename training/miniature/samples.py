"""Sample sheets of each training stage: outputs beside their inputs."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import PreTrainedTokenizerFast

from dream_o.images.sheet import Cell, contact_sheet
from training.miniature.autoencoder import to_unit
from training.miniature.captions import Caption, contents_of
from training.miniature.pool import drawn, references
from training.miniature.text import TextEncoders, read
from training.world.drawing import Contents, draw_portrait, draw_tiles, random_person, to_image

# The side of an image on a sheet, in pixels.
CELL = 256
READ, RECONSTRUCTED, DRAWN = 8, 3, 16
COLUMNS = 4
TILES = (64, 64)

Sample = tuple[list[Image.Image], str]
"""Images that belong together, and the text above them."""


def lay_out(lines: Sequence[Sequence[Sample]]) -> Image.Image:
    """A sheet of samples, line by line."""
    return contact_sheet(
        [
            [Cell(images, _wrapped(prompt, 38 * len(images))) for images, prompt in line]
            for line in lines
        ],
        CELL,
    )


def _in_lines(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[start : start + COLUMNS] for start in range(0, len(samples), COLUMNS)]


def text_sheet(
    encoders: TextEncoders, t5_tokenizer: PreTrainedTokenizerFast, captions: Sequence[Caption]
) -> Image.Image:
    """For each caption, draws what T5 encodes of it, beside what the caption says."""
    some = captions[:READ]
    found = read(encoders, t5_tokenizer, [each.text for each in some])
    return lay_out(
        _in_lines(
            [
                ([_drawn(contents_of(said)), _drawn(contents_of(caption.said))], caption.text)
                for said, caption in zip(found, some, strict=True)
            ]
        )
    )


def _drawn(contents: Contents) -> Image.Image:
    return to_image(draw_tiles(contents, *TILES, np.random.default_rng(0)))


@torch.no_grad()
def reconstruction_sheet(vae: AutoencoderKL, seed: int) -> Image.Image:
    """Portraits, each above its reconstruction by the VAE."""
    random = np.random.default_rng(seed)
    portraits = [np.asarray(draw_portrait(random_person(random))) for _ in range(RECONSTRUCTED)]
    pixels = to_unit(np.stack(portraits)).permute(0, 3, 1, 2).to(vae.device)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1).cpu()
    levels = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(row, axis=1) for row in (portraits, levels)]
    return Image.fromarray(np.concatenate(rows))


def reference_sheet(seed: int) -> Image.Image:
    """Some references of the training, with their tasks."""
    random = np.random.default_rng(seed)
    every = references(random)
    chosen = [every[place] for place in random.choice(len(every), DRAWN, replace=False)]
    return lay_out(_in_lines([([drawn(each, random)], each.task) for each in chosen]))


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])
