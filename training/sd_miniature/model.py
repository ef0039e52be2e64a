"""A small Stable Diffusion 1.5 whose VAE needs no training.

The VAE's weights are set by hand: its latents are the mean colours of 8 x 8 pixels, and it decodes
them to plain squares.
"""

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dream_o.dream_render.checkpoints import WITHOUT
from dream_o.dream_render.painting import dpmpp_2m_karras
from training.tokenizers import CLIP_LENGTH

TEXT_CHANNELS = 96
CHANNELS = (16, 32, 64, 128)
"""The channels of the UNet's levels, before it is `grown`."""
SCALING = 1.2
"""The factor of the VAE's latents, with which their variance is about a third."""

# Pairs of channels with opposite signs pass the activation unchanged: silu(x) - silu(-x) = x.
# Two large constant channels keep the normalisation from depending on the image.
PASSING, CONSTANT = 8, 32.0


def build(tokenizer: CLIPTokenizer, seed: int) -> StableDiffusionPipeline:
    """A pipeline with untrained float32 weights for a tokenizer's vocabulary."""
    torch.manual_seed(seed)
    unet = _new_unet(CHANNELS)
    nn.init.zeros_(unet.conv_out.weight)
    vae = AutoencoderKL(
        sample_size=512,
        block_out_channels=(PASSING,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=SCALING,
        mid_block_add_attention=False,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_CHANNELS,
            intermediate_size=2 * TEXT_CHANNELS,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=TEXT_CHANNELS,
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        text_encoder.get_input_embeddings().weight.normal_(std=0.5)
    scheduler = dpmpp_2m_karras(
        {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "steps_offset": 1,
            # The image is predicted, not the noise or the velocity. Those are the image's errors
            # divided by the noise, which a small model cannot compute exactly at low noise.
            "prediction_type": "sample",
            # Guidance exaggerates. Without a limit, purple becomes blue and orange becomes red.
            "thresholding": True,
            "sample_max_value": 1.0,
        }
    )
    return StableDiffusionPipeline(
        vae=pass_colours(vae).eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        **WITHOUT["sd15"],
    )


def _new_unet(channels: tuple[int, ...]) -> UNet2DConditionModel:
    # SD 1.5 has attention at every level but the last, which would take most of a small model's
    # time. This one has it only at the level before the last, and in the middle.
    outer = len(channels) - 2
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * outer + ("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D") + ("UpBlock2D",) * outer,
        layers_per_block=1,
        cross_attention_dim=TEXT_CHANNELS,
        attention_head_dim=4,
        norm_num_groups=8,
    )


@torch.no_grad()
def grown(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet with another level outside, which draws the same at twice the size.

    At first the new level only passes on: its downsampling does what the input convolution did, and
    its blocks add nothing to what the old levels return.
    """
    first, *others = unet.config.block_out_channels
    made = _new_unet((first, first, *others))
    old = dict(unet.state_dict())
    held = made.state_dict()
    moved = {}
    for name, value in old.items():
        if name.startswith("down_blocks."):
            _, level, rest = name.split(".", 2)
            name = f"down_blocks.{int(level) + 1}.{rest}"
        moved[name] = value
    made.load_state_dict(held | {name: moved[name] for name in moved if "conv_in" not in name})
    for convolution in (made.conv_in, made.up_blocks[-2].upsamplers[0].conv):
        _pass(convolution)
    downsampling = made.down_blocks[0].downsamplers[0].conv
    nn.init.zeros_(downsampling.weight)
    downsampling.weight[:, : unet.config.in_channels] = unet.conv_in.weight
    downsampling.bias.copy_(unet.conv_in.bias)
    for block in (made.down_blocks[0], made.up_blocks[-1]):
        for resnet in block.resnets:
            nn.init.zeros_(resnet.conv2.weight)
            nn.init.zeros_(resnet.conv2.bias)
            if resnet.conv_shortcut is not None:
                _pass(resnet.conv_shortcut)
    return made.eval()


def train_outer_level_alone(unet: UNet2DConditionModel) -> None:
    """Freezes all weights but those of the last block and of the output.

    At the full rate, a larger image's training would change what the other levels have learnt.
    """
    unet.requires_grad_(False)
    for part in (unet.up_blocks[-1], unet.conv_norm_out, unet.conv_out):
        part.requires_grad_(True)


def colours(images: torch.Tensor) -> torch.Tensor:
    """The VAE's latents of images, computed from their means over 8 x 8 pixels.

    Args:
        images: the means, `(batch, 3, rows, columns)` from -1 to 1.

    Returns:
        The colours and their grey, `(batch, 4, rows, columns)`, without the scaling factor.
    """
    return torch.cat([images, images.mean(dim=1, keepdim=True)], dim=1)


@torch.no_grad()
def pass_colours(vae: AutoencoderKL) -> AutoencoderKL:
    """Sets weights with which latents are mean colours (and grey), and decode to plain squares."""
    for block in vae.modules():
        if hasattr(block, "conv2") and hasattr(block, "conv_shortcut"):
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
        elif type(block).__name__ == "Downsample2D":
            _pass(block.conv, taps=((0, 0), (0, 1), (1, 0), (1, 1)))
        elif type(block).__name__ == "Upsample2D":
            _pass(block.conv)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _pass(conv)
    for coder, taken in ((vae.encoder, 3), (vae.decoder, 4)):
        # Input: the colours, their negatives, two constants.
        weight, bias = coder.conv_in.weight, coder.conv_in.bias
        weight[:PASSING], bias[:PASSING] = 0, 0
        for channel in range(3):
            weight[channel, channel, 1, 1], weight[channel + 3, channel, 1, 1] = 1, -1
        bias[6], bias[7] = CONSTANT, -CONSTANT
        # Output: joins the halves and undoes the normalisation's division.
        weight, bias = coder.conv_out.weight, coder.conv_out.bias
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)
        deviation = (2 * (CONSTANT**2 + 1) / weight.shape[1]) ** 0.5
        for channel in range(3):
            weight[channel, channel, 1, 1] = deviation
            weight[channel, channel + 3, 1, 1] = -deviation
        if taken == 3:
            weight[3] = weight[:3].mean(dim=0)
            bias[4:] = -20.0  # the log of a variance of almost zero
    return vae


def _pass(conv: nn.Conv2d, taps: tuple[tuple[int, int], ...] = ((-1, -1),)) -> None:
    """Makes each channel the mean of its own values at the taps; (-1, -1) is the middle."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    for channel in range(min(conv.in_channels, conv.out_channels)):
        for row, column in taps:
            place = (middle, middle) if row < 0 else (row, column)
            conv.weight[channel, channel, place[0], place[1]] = 1 / len(taps)
