"""Sample sheets: pictures beside what they were made of, one for each stage of the training."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw, ImageFont
from transformers import PreTrainedTokenizerFast

from training.miniature.autoencoder import to_unit
from training.miniature.captions import Caption, picture_of
from training.miniature.pool import drawn, references
from training.miniature.text import TextEncoders, read
from training.miniature.world import Picture, draw_portrait, draw_tiles, random_person, to_image

CELL, TEXT, GAP = 256, 34, 12
READ, RECONSTRUCTED, DRAWN = 8, 3, 16
COLUMNS = 4
TILES = (64, 64)

Sample = tuple[list[Image.Image], str]
"""Pictures that belong together, and what is written above them."""


def save_once(path: Path, draw: Callable[[], Image.Image]) -> None:
    """Draws a sheet that is not there yet, and writes it whole or not at all."""
    if path.exists():
        return
    partial = path.with_name(f".{path.name}.partial")
    draw().save(partial, format="PNG")
    partial.replace(path)


def lay_out(lines: Sequence[Sequence[Sample]]) -> Image.Image:
    """A sheet of samples, line by line."""
    widths = [
        sum(len(pictures) for pictures, _ in line) * CELL + GAP * (len(line) - 1) for line in lines
    ]
    sheet = Image.new("RGB", (max(widths), len(lines) * (CELL + TEXT + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, line in enumerate(lines):
        top, left = row * (CELL + TEXT + GAP), 0
        for pictures, prompt in line:
            for picture in pictures:
                small = picture.convert("RGBA").resize((CELL, CELL), Image.Resampling.LANCZOS)
                sheet.paste(small, (left, top + TEXT), small)
                left += CELL
            at = (left - len(pictures) * CELL + 2, top + 2)
            pen.multiline_text(at, _wrapped(prompt, 38 * len(pictures)), fill="black", font=font)
            left += GAP
    return sheet


def _in_lines(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[start : start + COLUMNS] for start in range(0, len(samples), COLUMNS)]


def text_sheet(
    encoders: TextEncoders, t5_tokenizer: PreTrainedTokenizerFast, captions: Sequence[Caption]
) -> Image.Image:
    """The picture that T5 reads in each caption, beside the one that the caption asks for."""
    some = captions[:READ]
    found = read(encoders, t5_tokenizer, [each.text for each in some])
    return lay_out(
        _in_lines(
            [
                ([_picture(picture_of(said)), _picture(picture_of(caption.said))], caption.text)
                for said, caption in zip(found, some, strict=True)
            ]
        )
    )


def _picture(picture: Picture) -> Image.Image:
    return to_image(draw_tiles(picture, *TILES, np.random.default_rng(0)))


@torch.no_grad()
def reconstruction_sheet(vae: AutoencoderKL, seed: int) -> Image.Image:
    """Portraits, each above what the VAE makes of its latents."""
    random = np.random.default_rng(seed)
    portraits = [np.asarray(draw_portrait(random_person(random))) for _ in range(RECONSTRUCTED)]
    pixels = to_unit(np.stack(portraits)).permute(0, 3, 1, 2).to(vae.device)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1).cpu()
    levels = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(row, axis=1) for row in (portraits, levels)]
    return Image.fromarray(np.concatenate(rows))


def reference_sheet(seed: int) -> Image.Image:
    """Some of the references of the training, with their tasks."""
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
