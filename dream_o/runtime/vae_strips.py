"""Runs the VAE with less memory: its convolutions process one strip of rows at a time.

diffusers' tiling computes normalisation and attention separately for each tile, which changes all
pixels. Here, normalisation uses the statistics of the whole feature map, and each strip includes
the rows next to it, so there are no seams.
"""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn
from torch.nn.functional import conv2d, interpolate, pad

ROWS = 32
"""The number of a feature map's rows in a strip."""


def use_strips(vae: AutoencoderKL) -> None:
    """Makes a VAE's residual blocks and upsamplers work strip by strip."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.forward = partial(_residual, module)
        elif isinstance(module, Upsample2D):
            module.forward = partial(_upsampled, module)


def _residual(block: ResnetBlock2D, tokens: torch.Tensor, temb: None = None) -> torch.Tensor:
    hidden = _convolved(block.conv1, tokens, _normalised(block.norm1, tokens, block.nonlinearity))
    prepare = _normalised(block.norm2, hidden, block.nonlinearity)
    if block.conv_shortcut is None:
        # In place, because the input is not used again.
        return _convolved(block.conv2, hidden, prepare, into=tokens)
    made = _convolved(block.conv2, hidden, prepare)
    for start in range(0, made.shape[2], ROWS):
        rows = tokens[:, :, start : start + ROWS]
        made[:, :, start : start + ROWS] += block.conv_shortcut(rows)
    return made


def _upsampled(module: Upsample2D, tokens: torch.Tensor, output_size: None = None) -> torch.Tensor:
    doubled = partial(interpolate, scale_factor=2.0, mode="nearest")
    return _convolved(module.conv, tokens, doubled, factor=2)


def _convolved(
    layer: nn.Conv2d,
    tokens: torch.Tensor,
    prepare: Callable[[torch.Tensor], torch.Tensor],
    factor: int = 1,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """`layer(prepare(tokens))` for a convolution of 3 x 3.

    Args:
        tokens: `(batch, channels, height, width)`.
        prepare: changes the input; it multiplies the rows and columns by `factor`, and each row of
            its result depends on one row only.
        into: the tensor to which the result is added in place; None for zeros.
    """
    batch, _, height, width = tokens.shape
    shape = batch, layer.out_channels, height * factor, width * factor
    made = tokens.new_zeros(shape) if into is None else into
    for start in range(0, height, ROWS):
        end = min(start + ROWS, height)
        low = max(start - 1, 0)
        rows = prepare(tokens[:, :, low : end + 1])
        # One more row above and below the strip; zeros outside the map.
        first = (start - low) * factor - 1
        last = first + (end - start) * factor + 2
        border = max(-first, 0), max(last - rows.shape[2], 0)
        rows = pad(rows[:, :, max(first, 0) : last], (0, 0, *border))
        made[:, :, start * factor : end * factor] += conv2d(
            rows, layer.weight, layer.bias, padding=(0, 1)
        )
    return made


def _normalised(
    norm: nn.GroupNorm, tokens: torch.Tensor, activation: nn.Module
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that normalises rows with the whole map's statistics and activates them."""
    strips = tokens.split(ROWS, dim=2)
    count = tokens[0].numel() // norm.num_groups

    def moment(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        total = tokens.new_zeros(len(tokens), norm.num_groups, dtype=torch.float32)
        for strip in strips:
            values = strip.float().unflatten(1, (norm.num_groups, -1)).flatten(2)
            total += change(values).sum(-1)
        return (total / count)[..., None]

    mean = moment(lambda values: values)
    variance = moment(lambda values: (values - mean).square_())
    channels = tokens.shape[1] // norm.num_groups
    deviation = (variance + norm.eps).sqrt_().repeat_interleave(channels, dim=1)
    scale = norm.weight.float()[:, None] / deviation
    shift = norm.bias.float()[:, None] - mean.repeat_interleave(channels, dim=1) * scale

    def change(rows: torch.Tensor) -> torch.Tensor:
        normed = torch.addcmul(shift[..., None], rows.float(), scale[..., None])
        return activation(normed.to(rows.dtype))

    return change
