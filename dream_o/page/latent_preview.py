"""A cheap image of the latents while a request runs: a linear map instead of the VAE's decoder."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from dream_o.pipeline import DreamOPipeline
from dream_o.sampling import unpack
from dream_o.sizes import VAE_SCALE

# The images that the map is fitted to, and their side in pixels.
FITTED_IMAGES, FITTED_SIDE = 8, 256
# The fields of colour in them have one random colour for each square of so many pixels.
FIELD_SIDES = (16, 32, 64)

Rows = torch.Tensor
"""`(places, channels)`: latents with one row for each place, row by row of the image."""


class LatentPreview:
    """A linear map from the latents of DreamO's VAE to colours, one pixel for 8 x 8 pixels.

    It is fitted by least squares to what this VAE makes of drawn fields of colour, so it suits
    every bundle, and no constants of one VAE are needed.

    Args:
        pipeline: its VAE is used once, here; its scheduler's noise levels are read later.
    """

    def __init__(self, pipeline: DreamOPipeline) -> None:
        self.scheduler = pipeline.scheduler

        def encode(image: Image.Image) -> Rows:
            packed = pipeline.encode_reference(image).latents
            return _rows(unpack(packed.float(), FITTED_SIDE, FITTED_SIDE))

        self.map = _fitted(encode)

    def draw(
        self, before: torch.Tensor, after: torch.Tensor, step: int, size: tuple[int, int]
    ) -> Image.Image:
        """The image that the latents are moving towards, `RGB`, an eighth of `size`.

        Args:
            before, after: packed latents `(1, tokens, 64)` before and after a step.
            step: the step, from 0.
            size: width and height of the image in pixels.
        """
        sigmas = self.scheduler.sigmas
        clean = _end_of_line(before, after, float(sigmas[step]), float(sigmas[step + 1]))
        width, height = size
        return _colours(unpack(clean, height, width), self.map)


class RenderPreview:
    """The same for DreamRender, whose checkpoints have a VAE each.

    Args:
        checkpoint: gives a loaded Stable Diffusion pipeline by its name. It is called in the thread
            that the pipelines run in, while the pipeline of that name runs.
    """

    def __init__(self, checkpoint: Callable[[str], Any]) -> None:
        self.checkpoint = checkpoint
        self.map = cache(self._map)

    def _map(self, model: str) -> torch.Tensor:
        pipeline = self.checkpoint(model)
        vae = pipeline.vae

        @torch.inference_mode()
        def encode(image: Image.Image) -> Rows:
            pixels = pipeline.image_processor.preprocess(image).to(vae.device, vae.dtype)
            latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
            return _rows(latents.float())

        return _fitted(encode)

    def draw(self, model: str, before: torch.Tensor, after: torch.Tensor) -> Image.Image | None:
        """The image that the latents are moving towards; None if it cannot be told.

        Args:
            model: the checkpoint's name.
            before, after: latents `(1, channels, height / 8, width / 8)` before and after a step.
        """
        scheduler = self.checkpoint(model).scheduler
        now = scheduler.step_index
        factors = self.map(model)
        # A second pass begins with latents of another size. A VAE may overflow in float16.
        if before.shape != after.shape or not now or not factors.isfinite().all():
            return None
        then, now = (float(scheduler.sigmas[step]) for step in (now - 1, now))
        # Latents of this scheduler are x / sqrt(1 + sigma^2) of a noisy image x.
        before, after = (
            latents.float() * (1 + sigma**2) ** 0.5
            for latents, sigma in ((before, then), (after, now))
        )
        return _colours(_end_of_line(before, after, then, now), factors)


def _end_of_line(
    before: torch.Tensor, after: torch.Tensor, then: float, now: float
) -> torch.Tensor:
    """Where a step leads that is followed down to noise level 0.

    Args:
        before, after: latents before and after the step.
        then, now: their noise levels.
    """
    return after.float() - (after.float() - before.float()) * (now / (now - then))


def _fitted(encode: Callable[[Image.Image], Rows]) -> torch.Tensor:
    """`(channels + 1, 3)`: the map from latents to colours from 0 to 255, and an offset."""
    latents, colours = [], []
    for seed in range(FITTED_IMAGES):
        image = _field(seed)
        latents.append(encode(image).cpu())
        side = FITTED_SIDE // VAE_SCALE
        small = image.resize((side, side), Image.Resampling.BOX)
        colours.append(torch.from_numpy(np.array(small)).view(-1, 3))
    known, wanted = _with_ones(torch.cat(latents)), torch.cat(colours).float()
    if not known.isfinite().all():
        return torch.full((known.shape[1], 3), torch.nan)
    return torch.linalg.lstsq(known, wanted, driver="gelsd").solution


def _colours(latents: torch.Tensor, factors: torch.Tensor) -> Image.Image:
    """The image of latents `(1, channels, height, width)`."""
    rows = _with_ones(_rows(latents))
    colours = (rows @ factors.to(rows.device)).clamp(0, 255).round().to(torch.uint8).cpu()
    return Image.fromarray(colours.view(*latents.shape[-2:], 3).numpy(), "RGB")


def _rows(latents: torch.Tensor) -> Rows:
    return latents[0].flatten(1).T


def _with_ones(rows: Rows) -> torch.Tensor:
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def _field(seed: int) -> Image.Image:
    """A drawn field of colours: squares for even seeds, smooth for odd ones."""
    side = FITTED_SIDE // FIELD_SIDES[seed % len(FIELD_SIDES)]
    colours = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    how = Image.Resampling.BICUBIC if seed % 2 else Image.Resampling.NEAREST
    return Image.fromarray(colours, "RGB").resize((FITTED_SIDE, FITTED_SIDE), how)
