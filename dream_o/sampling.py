"""Sampling as plain functions: noise, sigmas, positions, steps.

Rectified flow as in FLUX.1: latents move from noise (sigma 1) to the image (sigma 0) along the
velocity that the transformer predicts. Token layout: `[text][image][reference 1][reference 2]...`.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from dream_o.conditioning import Conditioning
from dream_o.sizes import PATCH, TOKEN_PIXELS, VAE_SCALE
from dream_o.transfer import to_device
from dream_o.transformer import DreamOTransformer2DModel

Velocity = Callable[[torch.Tensor, int], torch.Tensor]
"""A function of latents `(1, tokens, 64)` and a step number; returns a velocity of that shape."""

StepEnd = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor | None]


def pack(latents: torch.Tensor) -> torch.Tensor:
    """`(batch, channels, height, width)` to tokens `(batch, height/2 * width/2, channels * 4)`."""
    batch, channels, height, width = latents.shape
    patches = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH * PATCH)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `pack` for an image of `height` x `width` pixels."""
    batch, _, channels = tokens.shape
    rows, columns = height // TOKEN_PIXELS, width // TOKEN_PIXELS
    patches = tokens.view(batch, rows, columns, channels // PATCH**2, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(
        batch, channels // PATCH**2, rows * PATCH, columns * PATCH
    )


def draw_noise(
    height: int,
    width: int,
    channels: int,
    generator: torch.Generator | None,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Packed noise `(1, tokens, 4 * channels)` for `height` x `width` pixels.

    The noise is drawn on the generator's device, so a CPU generator gives the same noise
    everywhere. Shape and dtype of the draw are those of FluxPipeline.
    """
    shape = (1, channels, height // VAE_SCALE, width // VAE_SCALE)
    where = generator.device if generator is not None else torch.device("cpu")
    noise = torch.randn(shape, generator=generator, dtype=dtype, device=where)
    return pack(to_device(noise, device))


def position_ids(
    text_tokens: int, sizes: list[tuple[int, int]], device: torch.device
) -> torch.Tensor:
    """Position ids `(tokens, 3)` float32 of text, image and references.

    Text is at the origin. The image is a grid `(0, row, column)`. Each reference is a further grid
    that starts, on the diagonal, where the previous grid ends.

    Args:
        text_tokens: the number of text tokens.
        sizes: rows and columns in tokens: first the image's, then each reference's.
    """
    grids = [torch.zeros(text_tokens, 3)]
    row, column = 0, 0
    for rows, columns in sizes:
        grid = torch.zeros(rows, columns, 3)
        grid[..., 1] = torch.arange(row, row + rows)[:, None]
        grid[..., 2] = torch.arange(column, column + columns)[None, :]
        grids.append(grid.view(-1, 3))
        row, column = row + rows, column + columns
    return to_device(torch.cat(grids), device)


def time_shift(config: Mapping[str, Any], image_tokens: int) -> float:
    """FLUX's `mu`: how far the noise levels move towards 1 for an image of that many tokens."""
    slope = (config["max_shift"] - config["base_shift"]) / (
        config["max_image_seq_len"] - config["base_image_seq_len"]
    )
    return float(config["base_shift"] + slope * (image_tokens - config["base_image_seq_len"]))


def set_sigmas(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, image_tokens: int, device: torch.device
) -> torch.Tensor:
    """Prepares the scheduler and returns its timesteps `(steps,)`, sigma times 1000.

    The sigmas are `linspace(1, 1/steps, steps)` shifted by `mu` (FLUX's dynamic shift), which grows
    with the number of image tokens; reference tokens do not count. The constants are in the
    scheduler's configuration.
    """
    mu = time_shift(scheduler.config, image_tokens)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=device)
    # Otherwise the scheduler looks up the step on the device, which synchronises with the GPU.
    scheduler.set_begin_index(0)
    return scheduler.timesteps


def guidance_per_step(guidance: float, first: float, steps: int) -> torch.Tensor:
    """`(steps,)` float32: `guidance` in every step, except `first` in step 0 if it is above 0."""
    scales = torch.full((steps,), guidance)
    if first > 0:
        scales[0] = first
    return scales


def velocity_of(transformer: DreamOTransformer2DModel, conditioning: Conditioning) -> Velocity:
    """The transformer with fixed conditioning, as a function of the latents and the step."""

    def velocity(latents: torch.Tensor, step: int) -> torch.Tensor:
        return transformer(
            hidden_states=latents,
            encoder_hidden_states=conditioning.text_tokens,
            modulation=conditioning.modulation[step : step + 1],
            rotary=conditioning.rotary,
            reference_tokens=conditioning.reference_tokens,
            token_embeddings=conditioning.token_embeddings,
        )

    return velocity


def with_true_cfg(
    positive: Velocity, negative: Velocity, scale: float, steps: Container[int]
) -> Velocity:
    """Classifier-free guidance (arXiv:2207.12598) with a negative pass in `steps`.

    In those steps the velocity is `negative + scale * (positive - negative)`.
    """

    def velocity(latents: torch.Tensor, step: int) -> torch.Tensor:
        wanted = positive(latents, step)
        if step not in steps:
            return wanted
        unwanted = negative(latents, step)
        return unwanted + scale * (wanted - unwanted)

    return velocity


def denoise(
    velocity: Velocity,
    scheduler: FlowMatchEulerDiscreteScheduler,
    latents: torch.Tensor,
    on_step_end: StepEnd,
) -> torch.Tensor:
    """Denoises latents `(1, tokens, 64)` and returns clean latents of the same shape.

    Args:
        velocity: predicts the velocity, `(1, tokens, 64)`, of the latents in a step.
        scheduler: after `set_sigmas`.
        latents: noise.
        on_step_end: called as `f(step, timestep, latents)` after each step with the new latents;
            returns the latents to continue with, or None to stop.
    """
    for step, timestep in enumerate(scheduler.timesteps):
        change = velocity(latents, step)
        latents = scheduler.step(change, timestep, latents, return_dict=False)[0]
        stepped = on_step_end(step, timestep, latents)
        if stepped is None:
            return latents
        latents = stepped
    return latents
