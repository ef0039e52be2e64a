"""Trains the embedded checkpoint: `python -m training.sd_miniature [--output DIR]`.

It has the models of Stable Diffusion 1.5, each very small. The weights of the VAE's encoder are set
by hand: its latents are the colours of the image, 8 times smaller. The decoder learns to draw sharp
edges from them, and the UNet and the text encoder learn the world of `world.py`.
"""

import argparse
import logging
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from torch import nn

from dream_o.dream_render.windows import token_windows
from dream_o.service.logs import log_to_stderr
from training import ROOT
from training.sd_miniature.model import SEED, TEXT_CHANNELS, build, train_tokenizer
from training.sd_miniature.world import (
    COLOURS,
    GROUNDS,
    MANNERS,
    NOUNS,
    Scene,
    caption,
    draw,
    random_scene,
)

logger = logging.getLogger("training.sd_miniature.__main__")  # __name__ is "__main__"

OUTPUT = ROOT / "weights" / "render" / "miniature"
SCENES = 3000
CAPTIONS = 3  # captions of each scene
WITHOUT_WORDS = 0.1  # the share of empty captions, for classifier-free guidance
# The side of the latents, the batch size and the steps: small images first, then full size.
STAGES = ((32, 16, 1100), (64, 6, 160))
LEARNING_RATE, WARMUP = 2e-3, 50
TEXT_STEPS, TEXT_BATCH = 250, 48
DECODER_STEPS, DECODER_BATCH = 120, 6
DECODER_RATE = 4e-4  # a higher rate undoes the decoder's initial weights
DECODER_SIDE, DECODER_CROP = 256, 128  # pixels


def colours(images: torch.Tensor) -> torch.Tensor:
    """The VAE's latents, computed from images that are 8 times smaller, `(n, 3, side, side)`."""
    return torch.cat([images, images.mean(dim=1, keepdim=True)], dim=1)


def train_decoder(vae: AutoencoderKL, chance: random.Random, steps: int) -> None:
    """Trains the decoder in place to draw sharp images from mean colours."""
    vae.decoder.train()
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=DECODER_RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        crops = []
        for _ in range(DECODER_BATCH):
            room = (DECODER_SIDE - DECODER_CROP) // 8
            left, top = 8 * chance.randrange(room), 8 * chance.randrange(room)
            image = draw(random_scene(chance), DECODER_SIDE)
            crops.append(image[top : top + DECODER_CROP, left : left + DECODER_CROP])
        pixels = _tensor(np.stack(crops))
        drawn = vae.decode(colours(nn.functional.avg_pool2d(pixels, 8))).sample
        loss = (drawn - pixels).abs().mean()
        _step(loss, optimizer, schedule, vae.decoder)
        if step % 50 == 0 or step == steps - 1:
            logger.info("decoder: step %d of %d: L1 %.4f", step, steps, loss.item())
    vae.decoder.eval()


def train_text(pipeline: StableDiffusionPipeline, chance: random.Random, scale: float) -> None:
    """Trains the text encoder in place to classify captions, before the UNet's training.

    Without this, colours and nouns are learnt late and unreliably.
    """
    encoder = pipeline.text_encoder.train()
    answers: list[list[str | None]] = [
        [*NOUNS],
        [*COLOURS, None],
        [*GROUNDS, None],
        [*MANNERS, None],
    ]
    heads = nn.ModuleList([nn.Linear(TEXT_CHANNELS, len(each)) for each in answers])
    both = nn.ModuleList([encoder, heads])
    steps = round(TEXT_STEPS * scale)
    optimizer = torch.optim.AdamW(both.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        scenes = [random_scene(chance) for _ in range(TEXT_BATCH)]
        words = [caption(scene, chance) for scene in scenes]
        states = encoder(token_windows(pipeline.tokenizer, words)[:, 0]).last_hidden_state
        # From the end token on, every output depends on the whole caption.
        pooled = states[:, -1]
        loss = torch.zeros(())
        for head, known, asked in zip(heads, answers, _attributes(scenes, words), strict=True):
            target = torch.tensor([known.index(each) for each in asked])
            loss = loss + nn.functional.cross_entropy(head(pooled), target)
        _step(loss, optimizer, schedule, both)
        if step % 50 == 0 or step == steps - 1:
            logger.info("text: step %d of %d: %.4f", step, steps, loss.item())
    encoder.eval()


def _attributes(scenes: list[Scene], words: list[str]) -> list[list[str | None]]:
    """The noun, colour, background and style that each caption names, or None."""
    return [
        [scene.noun for scene in scenes],
        [
            s.colour if f"{s.colour} {s.noun}" in w else None
            for s, w in zip(scenes, words, strict=True)
        ],
        [
            s.ground if f"{s.ground} background" in w else None
            for s, w in zip(scenes, words, strict=True)
        ],
        [scene.style for scene in scenes],
    ]


def train_unet(
    pipeline: StableDiffusionPipeline, chance: random.Random, scale: float = 1.0
) -> None:
    """Trains the UNet and the text encoder in place to denoise the world's latents."""
    scenes = [random_scene(chance) for _ in range(SCENES)]
    images = _tensor(np.stack([draw(scene, STAGES[-1][0]) for scene in scenes]))
    ids = torch.stack(
        [
            token_windows(pipeline.tokenizer, [caption(scene, chance) for _ in range(CAPTIONS)])[
                :, 0
            ]
            for scene in scenes
        ]
    )
    nothing = token_windows(pipeline.tokenizer, [""])[0, 0]
    unet, text_encoder = pipeline.unet.train(), pipeline.text_encoder.train()
    both = nn.ModuleList([unet, text_encoder])
    stages = [(side, batch, round(steps * scale)) for side, batch, steps in STAGES]
    total = sum(steps for *_, steps in stages)
    optimizer = torch.optim.AdamW(both.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1.0) * max(1 - step / total, 0.01)
    )
    kept = pipeline.scheduler.alphas_cumprod
    for side, batch, steps in stages:
        latents = colours(nn.functional.adaptive_avg_pool2d(images, side))
        latents = latents * pipeline.vae.config.scaling_factor
        for step in range(steps):
            rows = torch.randint(len(scenes), (batch,))
            words = ids[rows, torch.randint(CAPTIONS, (batch,))]
            words[torch.rand(batch) < WITHOUT_WORDS] = nothing
            times = torch.randint(len(kept), (batch,))
            alpha = kept[times][:, None, None, None]
            noise = torch.randn(batch, *latents.shape[1:])
            noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
            said = text_encoder(words).last_hidden_state
            velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents[rows]
            loss = nn.functional.mse_loss(unet(noisy, times, said).sample, velocity)
            _step(loss, optimizer, schedule, both)
            if step % 50 == 0 or step == steps - 1:
                logger.info("unet: side %d, step %d of %d: %.4f", side, step, steps, loss.item())
    both.eval()


def _tensor(images: np.ndarray) -> torch.Tensor:
    """Converts `(n, side, side, 3)` uint8 to `(n, 3, side, side)` from -1 to 1."""
    return torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _step(
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    model: nn.Module,
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def make(output: Path, scale: float = 1.0) -> None:
    """Trains and writes the checkpoint in float16; `scale` multiplies the steps."""
    torch.set_num_threads(1)
    chance = random.Random(SEED)
    words = [caption(random_scene(chance), chance) for _ in range(5000)]
    pipeline = build(train_tokenizer(words))
    torch.manual_seed(SEED)
    train_text(pipeline, chance, scale)
    train_unet(pipeline, chance, scale)
    pipeline.to(torch.float16).save_pretrained(output)
    train_decoder(pipeline.vae.float(), chance, round(DECODER_STEPS * scale))
    pipeline.to(torch.float16).save_pretrained(output)
    for weights in output.rglob("*.safetensors"):
        weights.chmod(0o644)  # the libraries make some files readable by their owner only


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.sd_miniature")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder (%(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the steps (%(default)s)"
    )
    arguments = parser.parse_args()
    log_to_stderr()
    make(arguments.output, arguments.scale)


if __name__ == "__main__":
    main()
