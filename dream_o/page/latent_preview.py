"""Fast previews of the latents while a request runs, by a linear map instead of the VAE."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from dream_o.pipeline import DreamOPipeline
from dream_o.sampling import unpack
from dream_o.sizes import VAE_SCALE

# The number of images to which the map is fitted, and their side in pixels.
FITTED_IMAGES, FITTED_SIDE = 8, 256
# The sides in pixels of the squares in these images; each square has a random colour.
FIELD_SIDES = (16, 32, 64)

Rows = torch.Tensor
"""`(positions, channels)`: latents with one row per position of the image, in reading order."""


class LatentPreview:
    """A linear map from the latents of DreamO's VAE to colours, one pixel for 8 x 8 pixels.

    It is fitted by least squares to the latents that the VAE makes of drawn colour fields. So it
    suits every bundle, and needs no constants that are valid for one VAE only.

    Args:
        pipeline: its VAE is used here, its scheduler's noise levels in `draw`.
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
        """Draws the image that the latents are moving towards: `RGB`, an eighth of `size`.

        Args:
            before, after: packed latents `(1, tokens, 64)` before and after a step.
            step: the step, from 0.
            size: width and height of the image in pixels.
        """
        sigmas = self.scheduler.sigmas
        clean = _clean_latents(before, after, float(sigmas[step]), float(sigmas[step + 1]))
        width, height = size
        return _colours(unpack(clean, height, width), self.map)


class RenderPreview:
    """Such a map for each checkpoint of DreamRender, because each has its own VAE.

    Args:
        checkpoint: returns the loaded Stable Diffusion pipeline of a name. It is called while that
            pipeline runs, in the same thread.
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
        """Draws the image that the latents are moving towards; None if that is not possible.

        Args:
            model: the checkpoint's name.
            before, after: latents `(1, channels, height / 8, width / 8)` before and after a step.
        """
        scheduler = self.checkpoint(model).scheduler
        now = scheduler.step_index
        factors = self.map(model)
        # A second pass starts with latents of another size. A VAE in float16 may overflow.
        if before.shape != after.shape or not now or not factors.isfinite().all():
            return None
        then, now = (float(scheduler.sigmas[step]) for step in (now - 1, now))
        # Latents of this scheduler are x / sqrt(1 + sigma^2) of a noisy image x.
        before, after = (
            latents.float() * (1 + sigma**2) ** 0.5
            for latents, sigma in ((before, then), (after, now))
        )
        return _colours(_clean_latents(before, after, then, now), factors)


def _clean_latents(
    before: torch.Tensor, after: torch.Tensor, then: float, now: float
) -> torch.Tensor:
    """Extrapolates a step in a straight line to noise level 0.

    Args:
        before, after: latents before and after the step.
        then, now: the noise levels before and after the step.
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
    """Draws a colour field: squares for even seeds, smooth transitions for odd seeds."""
    side = FITTED_SIDE // FIELD_SIDES[seed % len(FIELD_SIDES)]
    colours = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    how = Image.Resampling.BICUBIC if seed % 2 else Image.Resampling.NEAREST
    return Image.fromarray(colours, "RGB").resize((FITTED_SIDE, FITTED_SIDE), how)
