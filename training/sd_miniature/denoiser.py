"""The UNet's training: it denoises the drawn world's latents."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from dream_o.dream_render.windows import token_windows
from training.draw import Draw
from training.optimisers import optimisers
from training.sd_miniature.captions import random_example, words_of
from training.sd_miniature.images import COLOURS, Tiles
from training.sd_miniature.images import draw as draw_image
from training.sd_miniature.model import SCALING, colours
from training.stage import Stage
from training.world.words import one_of

Sizes = Sequence[tuple[tuple[int, int], int, float, float]]
"""For each size: rows and columns of latents, the batch, the largest share of the timesteps, and
the frequency."""

TWO_WINDOWS = 0.1  # the share of steps in which every prompt fills at least two windows
HIGH_NOISE = 0.7  # timesteps are a uniform number to this power: below 1, noise is higher
HEAVIEST = 8.0  # the greatest weight of an image, for low noise
REPAINTED_FROM = 300  # the first timestep at which images are repainted
MUON, ADAM = 0.01, 2e-3


@dataclass(frozen=True)
class Phase:
    """A stage of the UNet's training.

    Attributes:
        name: the name of its checkpoint.
        steps: the number of steps.
        sizes: what `denoising_loss` draws from.
        rate: the share of the full learning rate.
        decay: the last share of the steps, over which the rate falls to zero.
        blind: the share of images of which nothing is left but noise.
        repainted: the share of images whose thing has another colour under the noise.
        grown: whether the UNet gets another level before this stage, which then trains it alone.
    """

    name: str
    steps: int
    sizes: Sizes
    rate: float = 1.0
    decay: float = 0.5
    blind: float = 0.0
    repainted: float = 0.0
    grown: bool = False


@torch.no_grad()
def encode(pipeline: StableDiffusionPipeline, prompts: list[str], windows: int) -> torch.Tensor:
    """The prompts' embeddings, `(batch, windows * 77, channels)`."""
    ids = token_windows(pipeline.tokenizer, prompts, windows)
    states = pipeline.text_encoder(ids.flatten(0, 1)).last_hidden_state
    return states.unflatten(0, ids.shape[:2]).flatten(1, 2)


def denoising_loss(
    pipeline: StableDiffusionPipeline,
    draw: Draw,
    sizes: Sizes,
    blind: float = 0.0,
    repainted: float = 0.0,
) -> torch.Tensor:
    """The error of the predicted images on a batch of random captions and images that fit them.

    Args:
        pipeline: the checkpoint; its text encoder is frozen.
        draw: the step's randomness.
        sizes: the sizes, one of which is drawn.
        blind: the share of images of which nothing is left but noise, as the sampler begins. The
            largest timestep leaves enough of an image to see its layout, and the UNet would learn
            to read that instead of the prompt.
        repainted: the share of images whose thing has a random colour under the noise, if the
            prompt names its colour. Guidance exaggerates colours, and a UNet that takes them from
            the noisy image would keep them.
    """
    random = draw.numpy
    chances = np.array([each[-1] for each in sizes])
    size, batch, most, _ = sizes[random.choice(len(sizes), p=chances / chances.sum())]
    prompts, shown = zip(*(random_example(random) for _ in range(batch)), strict=True)
    drawn, before = [], []
    for each in shown:
        before.append(deepcopy(random))
        drawn.append(draw_image(each, *size, random))
    latents = _latents(drawn)
    windows = 2 if random.random() < TWO_WINDOWS else 1
    words = encode(pipeline, list(prompts), windows)
    kept = pipeline.scheduler.alphas_cumprod
    shares = torch.rand(batch, generator=draw.torch) ** HIGH_NOISE * most
    times = (shares * len(kept)).long().clamp(max=len(kept) - 1)
    unseen = torch.rand(batch, generator=draw.torch) < blind
    times[unseen] = len(kept) - 1
    alpha = (kept[times] * ~unseen)[:, None, None, None]
    noise = torch.randn(latents.shape, generator=draw.torch)
    if repainted:
        for place, (prompt, each) in enumerate(zip(prompts, shown, strict=True)):
            named = each.colour in words_of(prompt) and times[place] >= REPAINTED_FROM
            if named and random.random() < repainted:
                other = replace(each, colour=one_of(random, COLOURS))
                drawn[place] = draw_image(other, *size, before[place])
    noisy = alpha.sqrt() * (_latents(drawn) if repainted else latents) + (1 - alpha).sqrt() * noise
    predicted = pipeline.unet(noisy, times, words).sample
    weight = (1 / (1 - alpha)).clamp(max=HEAVIEST)
    return (weight * (predicted - latents).square()).mean()


def _latents(drawn: Sequence[Tiles]) -> torch.Tensor:
    """The scaled latents of drawn images, `(batch, 4, rows, columns)`."""
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return colours(pixels) * SCALING


def denoiser_stage(pipeline: StableDiffusionPipeline, phase: Phase) -> Stage:
    """The training stage of a phase."""
    return Stage(
        phase.name,
        pipeline.unet,
        optimisers(
            pipeline.unet,
            muon_rate=phase.rate * MUON,
            adam_rate=phase.rate * ADAM,
            apart=("conv_in", "conv_out", "time_embedding"),
        ),
        lambda draw: denoising_loss(pipeline, draw, phase.sizes, phase.blind, phase.repainted),
        phase.steps,
        horizon=100,
        decay=phase.decay,
    )
