"""Previews from a transformer in training, computed on some of the tokens, which is fast."""

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from dream_o.images.sheet import Cell, contact_sheet
from dream_o.sampling import set_sigmas
from dream_o.transformer import DreamOTransformer2DModel
from training.miniature.autoencoder import COLOUR_SCALE, LATENT_CHANNELS
from training.miniature.bundle import SCHEDULER
from training.miniature.denoiser import GUIDANCE, velocity_of
from training.miniature.encoder import Encoder
from training.miniature.examples import Example
from training.miniature.pool import GRID, Pool
from training.miniature.tokens import Chosen, choose

STEPS = 12


@torch.no_grad()
def sample_tiles(
    transformer: DreamOTransformer2DModel,
    encoder: Encoder,
    pool: Pool,
    examples: list[Example],
    size: tuple[int, int],
    chosen: Chosen,
    seed: int,
) -> torch.Tensor:
    """The colours of the selected tiles, `(batch, chosen, 3)` float32 from 0 to 255.

    All examples must have the same tasks. All tokens of the references are used.
    """
    random = np.random.default_rng(seed)
    text = encoder([each.prompt for each in examples])
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER)
    times = set_sigmas(scheduler, STEPS, size[0] * size[1], transformer.device) / 1000
    generator = torch.Generator().manual_seed(seed)
    device = transformer.device
    latents = torch.randn(len(examples), len(chosen.rows), 64, generator=generator).to(device)
    parts: list[Chosen] = []
    tokens = []
    for number in range(len(examples[0].references)):
        part = choose(GRID, GRID, random, 1)
        held = torch.stack([pool.find(each.references[number], random) for each in examples])
        tokens.append(
            transformer.embed_reference(
                held[:, part.rows * GRID + part.columns].to(device), number + 1
            )
        )
        parts.append(part)
    guidance = torch.full((len(examples),), GUIDANCE, device=device)
    for step, timestep in enumerate(scheduler.timesteps):
        temb = transformer.embed_time(
            times[step].expand(len(examples)), guidance, text.pooled_prompt_embeds
        )
        velocity = velocity_of(transformer, latents, text, temb, chosen, size, tokens, parts)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    colours = latents.cpu().unflatten(-1, (LATENT_CHANNELS, 4))[..., :3, :].mean(-1)
    return ((colours / COLOUR_SCALE).clamp(-1, 1) + 1) * 127.5


def preview_sheet(
    transformer: DreamOTransformer2DModel,
    encoder: Encoder,
    pool: Pool,
    groups: list[list[Example]],
    wanted: list[list[np.ndarray]],
    size: tuple[int, int],
    seed: int,
    scale: int = 4,
) -> Image.Image:
    """Draws rows of pairs: the output at every second tile, and the target."""
    stride = 2
    rows, columns = size[0] // stride, size[1] // stride
    grid = torch.meshgrid(
        torch.arange(rows) * stride, torch.arange(columns) * stride, indexing="ij"
    )
    chosen = Chosen(grid[0].flatten(), grid[1].flatten(), torch.full((rows * columns,), 4.0))
    side = max(rows, columns) * scale

    def enlarged(pixels: np.ndarray) -> Image.Image:
        image = Image.fromarray(pixels)
        return image.resize((columns * scale, rows * scale), Image.Resampling.NEAREST)

    lines = []
    for examples, targets in zip(groups, wanted, strict=True):
        tiles = sample_tiles(transformer, encoder, pool, examples, size, chosen, seed)
        line = []
        for example, made, target in zip(examples, tiles, targets, strict=True):
            out = made.view(rows, columns, 3).round().byte().numpy()
            images = enlarged(out), enlarged(target[::stride, ::stride])
            line.append(Cell(images, example.prompt[:42]))
        lines.append(line)
    return contact_sheet(lines, side)
