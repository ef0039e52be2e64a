"""The miniature's VAE, with 8 times smaller latents whose first channels are colours.

The mean of a latent's first three channels is the colour of its 8 x 8 pixels; the other channels
encode finer detail. So the latents of an image made of tiles are known without the encoder
(`tile_latents`) and do not depend on a tile's neighbours, which makes the transformer's task easy.
"""

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from dream_o.sizes import TOKEN_PIXELS, VAE_SCALE
from training.draw import Draw
from training.optimisers import optimisers
from training.stage import Stage
from training.world.drawing import (
    Contents,
    draw_portrait,
    draw_tiles,
    random_palette,
    random_person,
    random_scene,
    random_subject,
)

LATENT_CHANNELS = 16
# With this factor, latents of the drawn world have about the same variance as the noise.
COLOUR_SCALE = 2.0

NOISE = 0.12  # noise in generated latents that the decoder learns to ignore
CROP, BATCH = 96, 8

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": LATENT_CHANNELS,
    "block_out_channels": (8, 16, 32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 1,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "sample_size": 1024,
    "force_upcast": True,
}


def new_autoencoder(seed: int) -> AutoencoderKL:
    """An untrained VAE in which every block starts close to the identity."""
    torch.manual_seed(seed)
    vae = AutoencoderKL(**CONFIG)
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith("conv2"):
                module.weight.data.mul_(0.1)
            elif not name.endswith("conv1"):
                nn.init.dirac_(module.weight)
                module.weight.data.add_(0.05 * torch.randn_like(module.weight))
    return vae


def tile_latents(tiles: torch.Tensor) -> torch.Tensor:
    """The latents of tiles, computed without the encoder.

    Args:
        tiles: colours from -1 to 1, `(..., 3)`.

    Returns:
        Packed latents `(..., 64)`, as `dream_o.sampling.pack` orders them.
    """
    places = (TOKEN_PIXELS // VAE_SCALE) ** 2
    colour = COLOUR_SCALE * tiles
    rest = colour.new_zeros(*colour.shape[:-1], LATENT_CHANNELS - 3)
    return torch.cat([colour, rest], dim=-1).repeat_interleave(places, dim=-1)


def to_unit(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels `(..., 3)` from 0 to 255 to float32 from -1 to 1."""
    return torch.from_numpy(np.array(pixels)).float() / 127.5 - 1


def _tile_crop(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """A crop of a random image, `(side, side, 3)` tiles."""
    kind = random.integers(6)
    if kind == 0:  # random colours, more than the world has
        few = random.integers(0, 256, (4, 3), dtype=np.uint8)
        return few[random.integers(4, size=(side, side))]
    contents = Contents(
        random_scene(random),
        random_subject(random) if kind < 4 else None,
        random_person(random) if kind >= 3 else None,
        random_palette(random) if random.random() < 0.25 else None,
    )
    tiles = draw_tiles(contents, 64, 64, random)
    top, left = random.integers(2, 50 - side, 2)
    return tiles[top : top + side, left : left + side]


def _other_crop(random: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """A crop that is not on the grid of tiles, as in references and photographs."""
    kind = random.integers(3)
    if kind == 0:  # a portrait, rotated and scaled
        pixels = np.asarray(draw_portrait(random_person(random)))
    elif kind == 1:  # an image, rotated and scaled
        tiles = draw_tiles(Contents(random_scene(random), random_subject(random)), 64, 64, random)
        pixels = tiles.repeat(8, axis=0).repeat(8, axis=1)
    else:  # clouds of colour at every scale
        pixels = np.zeros((side, side, 3), np.float32)
        for level in (3, 6, 12, 24, 48):
            cloud = random.normal(size=(level, level, 3)).astype(np.float32)
            pixels += cv2.resize(cloud, (side, side), interpolation=cv2.INTER_CUBIC) / level**0.7
        base, contrast = random.uniform(0, 255, 3), random.uniform(10, 160)
        return np.clip(base + contrast * pixels, 0, 255).astype(np.uint8)
    angle, scale = random.uniform(-20, 20), random.uniform(0.5, 2.0)
    centre = random.uniform(0.3, 0.7, 2) * pixels.shape[0]
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), angle, scale)
    matrix[:, 2] += side / 2 - centre
    return np.asarray(
        cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_AREA, borderValue=(255,) * 3),
        dtype=np.uint8,
    )


def autoencoder_loss(vae: AutoencoderKL, draw: Draw, batch: int, crop: int) -> torch.Tensor:
    """The loss of reconstruction, of the first channels' colours, and of decoded `tile_latents`."""
    random = draw.numpy
    side = crop // TOKEN_PIXELS
    half = batch // 2
    tiles = np.stack([_tile_crop(random, side) for _ in range(half)])
    flat = to_unit(tiles)
    on_grid = flat.permute(0, 3, 1, 2)
    on_grid = on_grid.repeat_interleave(TOKEN_PIXELS, 2).repeat_interleave(TOKEN_PIXELS, 3)
    others = np.stack([_other_crop(random, crop) for _ in range(batch - half)])
    on_grid = on_grid.to(vae.device)
    pixels = torch.cat([on_grid, to_unit(others).permute(0, 3, 1, 2).to(vae.device)])

    posterior = vae.encode(pixels).latent_dist
    colour = COLOUR_SCALE * functional.avg_pool2d(pixels, VAE_SCALE)
    colour_loss = (posterior.mean[:, :3] - colour).square().mean()
    noise = torch.randn(posterior.mean.shape, generator=draw.torch).to(vae.device)
    latents = posterior.mean + posterior.std * noise

    rest = colour.new_zeros(half, LATENT_CHANNELS - 3, *colour.shape[2:])
    known = torch.cat([colour[:half], rest], dim=1)
    strength = NOISE * torch.rand(half, 1, 1, 1, generator=draw.torch)
    noise = strength * torch.randn(known.shape, generator=draw.torch)
    known = known + noise.to(vae.device)

    decoded = vae.decode(torch.cat([latents, known])).sample
    error = decoded - torch.cat([pixels, on_grid])
    kl = 0.5 * (
        posterior.mean[:, 3:].square().mean() + (posterior.var - posterior.logvar - 1).mean()
    )
    return error.abs().mean() + 2 * error.square().mean() + colour_loss + 5e-4 * kl


def autoencoder_stage(
    vae: AutoencoderKL, steps: int, batch: int = BATCH, crop: int = CROP
) -> Stage:
    """The training stage of the VAE."""
    return Stage(
        "vae",
        vae,
        optimisers(vae, muon_rate=3e-3, adam_rate=3e-3, apart=("conv_out",)),
        lambda draw: autoencoder_loss(vae, draw, batch, crop),
        steps,
        horizon=100,
    )
