"""A cheap image of the latents while a request runs: a linear map instead of the VAE's decoder."""

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


class LatentPreview:
    """A linear map from the latents of a VAE to colours, one pixel for each 8 x 8 pixels.

    It is fitted by least squares to what this VAE makes of drawn fields of colour, so it suits
    every bundle, and no constants of one VAE are needed.

    Args:
        pipeline: its VAE is used once, here; its scheduler's noise levels are read later.
    """

    def __init__(self, pipeline: DreamOPipeline) -> None:
        self.scheduler = pipeline.scheduler
        latents, colours = [], []
        for seed in range(FITTED_IMAGES):
            image = _field(seed)
            encoded = pipeline.encode_reference(image).latents.float()
            latents.append(_rows(encoded, FITTED_SIDE, FITTED_SIDE))
            side = FITTED_SIDE // VAE_SCALE
            small = image.resize((side, side), Image.Resampling.BOX)
            colours.append(torch.from_numpy(np.array(small)).view(-1, 3))
        known = _with_ones(torch.cat(latents)).cpu()
        wanted = torch.cat(colours).float()
        self.map = torch.linalg.lstsq(known, wanted, driver="gelsd").solution

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
        now, then = float(sigmas[step + 1]), float(sigmas[step])
        # A step moves along the velocity; following it down to sigma 0 leads to the image.
        clean = after.float() - (after.float() - before.float()) * (now / (now - then))
        width, height = size
        rows = _with_ones(_rows(clean, height, width))
        colours = (rows @ self.map.to(rows.device)).clamp(0, 255).round().to(torch.uint8).cpu()
        return Image.fromarray(
            colours.view(height // VAE_SCALE, width // VAE_SCALE, 3).numpy(), "RGB"
        )


def _rows(packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """`(pixels, channels)`: one row for each place of the latents."""
    return unpack(packed, height, width)[0].flatten(1).T


def _with_ones(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def _field(seed: int) -> Image.Image:
    """A drawn field of colours: squares for even seeds, smooth for odd ones."""
    side = FITTED_SIDE // FIELD_SIDES[seed % len(FIELD_SIDES)]
    colours = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    how = Image.Resampling.BICUBIC if seed % 2 else Image.Resampling.NEAREST
    return Image.fromarray(colours, "RGB").resize((FITTED_SIDE, FITTED_SIDE), how)
