"""Makes the embedded checkpoint: `python -m dream_o.render.make_miniature [--output DIR]`.

It has the parts of Stable Diffusion 1.5, each very small, with weights drawn from a fixed seed.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dream_o.render.checkpoints import CONFIGS, WITHOUT
from dream_o.render.painting import dpmpp_2m_karras
from dream_o.settings import EMBEDDED_BUNDLE, ROOT

OUTPUT = ROOT / "weights" / "render" / "miniature"
SEED = 5
TEXT_CHANNELS = 64


def build(tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline with untrained weights, float32, for a tokenizer's vocabulary."""
    torch.manual_seed(SEED)
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(16, 32, 64, 64),
        # SD 1.5 attends at every level but the last, which would cost a small model most of its
        # time; this one attends where a token is 32 pixels wide, and in the middle.
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_CHANNELS,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        sample_size=512,
        block_out_channels=(8, 16, 24, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
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
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = dpmpp_2m_karras(
        {
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "steps_offset": 1,
        }
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        **WITHOUT["sd15"],
    )
