"""The UNet's training: it denoises the drawn world's latents."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from dream_o.dream_render.windows import token_windows
from training.optimisers import optimisers
from training.sd_miniature.captions import random_example
from training.sd_miniature.images import draw as draw_image
from training.sd_miniature.model import SCALING, colours
from training.stage import Draw, Stage

Sizes = Sequence[tuple[tuple[int, int], int, float, float]]
"""For each size: rows and columns of latents, the batch, the largest share of the timesteps, and
the frequency."""

TWO_WINDOWS = 0.1  # the share of steps in which every prompt fills at least two windows
HIGH_NOISE = 0.7  # timesteps are a uniform number to this power: below 1, noise is higher
HEAVIEST = 8.0  # the greatest weight of an image, for low noise
FARTHEST = 6.0  # cfg_scale - 1 at the default of a request
MUON, ADAM = 0.01, 2e-3


@torch.no_grad()
def encode(pipeline: StableDiffusionPipeline, prompts: list[str], windows: int) -> torch.Tensor:
    """The prompts' embeddings, `(batch, windows * 77, channels)`."""
    ids = token_windows(pipeline.tokenizer, prompts, windows)
    states = pipeline.text_encoder(ids.flatten(0, 1)).last_hidden_state
    return states.unflatten(0, ids.shape[:2]).flatten(1, 2)


def denoising_loss(
    pipeline: StableDiffusionPipeline, draw: Draw, sizes: Sizes, guided: float = 0.0
) -> torch.Tensor:
    """The error of the predicted images on a batch of random captions and images that fit them.

    Args:
        pipeline: the checkpoint; its text encoder is frozen.
        draw: the step's randomness.
        sizes: the sizes, one of which is drawn.
        guided: the share of noisy images that are `overshot`.
    """
    random = draw.numpy
    chances = np.array([each[-1] for each in sizes])
    size, batch, most, _ = sizes[random.choice(len(sizes), p=chances / chances.sum())]
    prompts, shown = zip(*(random_example(random) for _ in range(batch)), strict=True)
    drawn = np.stack([draw_image(each, *size, random) for each in shown])
    pixels = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents = colours(pixels) * SCALING
    windows = 2 if random.random() < TWO_WINDOWS else 1
    words = encode(pipeline, list(prompts), windows)
    kept = pipeline.scheduler.alphas_cumprod
    shares = torch.rand(batch, generator=draw.torch) ** HIGH_NOISE * most
    times = (shares * len(kept)).long().clamp(max=len(kept) - 1)
    alpha = kept[times][:, None, None, None]
    noise = torch.randn(latents.shape, generator=draw.torch)
    begun = overshot(latents, alpha, guided, draw.torch) if guided else latents
    noisy = alpha.sqrt() * begun + (1 - alpha).sqrt() * noise
    predicted = pipeline.unet(noisy, times, words).sample
    weight = (1 / (1 - alpha)).clamp(max=HEAVIEST)
    return (weight * (predicted - latents).square()).mean()


def overshot(
    latents: torch.Tensor, alpha: torch.Tensor, share: float, generator: torch.Generator
) -> torch.Tensor:
    """A share of the images moved away from their mean, as guidance moves them at high noise.

    Classifier-free guidance extrapolates from what all prompts have in common, so the sampler's
    first steps have far too strong colours. The UNet learns to predict the right ones from them.
    """
    chance, far = torch.rand((2, len(latents), 1, 1, 1), generator=generator)
    factor = (chance < share) * FARTHEST * far.square() * (1 - alpha)
    return latents + factor * (latents - latents.mean(dim=0, keepdim=True))


def denoiser_stage(
    name: str,
    pipeline: StableDiffusionPipeline,
    steps: int,
    sizes: Sizes,
    rate: float = 1.0,
    decay: float = 0.5,
    guided: float = 0.0,
) -> Stage:
    """A training stage of the UNet."""
    return Stage(
        name,
        pipeline.unet,
        optimisers(
            pipeline.unet,
            muon_rate=rate * MUON,
            adam_rate=rate * ADAM,
            apart=("conv_in", "conv_out", "time_embedding"),
        ),
        lambda draw: denoising_loss(pipeline, draw, sizes, guided),
        steps,
        horizon=100,
        decay=decay,
    )
