"""Makes the embedded checkpoint: `python -m dream_o.render.make_miniature [--output DIR]`.

It has the parts of Stable Diffusion 1.5, each very small. The VAE's latents are the colours of the
picture made 8 times smaller, by weights that are written down; its decoder then learns to draw
sharp edges from them, and the UNet with the text encoder learns the world of `miniature_world.py`.
"""

import argparse
import json
import logging
import os
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dream_o.logs import log_to_stderr
from dream_o.render.checkpoints import WITHOUT
from dream_o.render.miniature_world import caption, draw, random_scene
from dream_o.render.painting import dpmpp_2m_karras
from dream_o.render.windows import token_windows
from dream_o.settings import ROOT

logger = logging.getLogger("dream_o.render.make_miniature")  # also as __main__

OUTPUT = ROOT / "weights" / "render" / "miniature"
SEED = 5
TEXT_CHANNELS = 64
VOCABULARY = 1024
START, END = "<|startoftext|>", "<|endoftext|>"

SCENES = 3000
CAPTIONS = 3  # of each scene
WITHOUT_WORDS = 0.1  # of the batches' captions: what guidance steers away from
# Sides of the latents, samples a batch, steps: small first, then as large as in use.
STAGES = ((32, 16, 900), (64, 6, 350))
LEARNING_RATE, WARMUP = 2e-3, 50
DECODER_STEPS, DECODER_BATCH, DECODER_CROP = 300, 6, 128  # pixels

# Pairs of channels with opposite signs pass the activation unchanged: silu(x) - silu(-x) = x.
# Two constant channels keep the normalisation from depending on the picture.
PASSING, CONSTANT = 8, 4.0


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
        block_out_channels=(PASSING, 16, 24, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=1.6,  # latents of the world then have a variance of about one
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
        vae=pass_colours(vae).eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        **WITHOUT["sd15"],
    )


@torch.no_grad()
def pass_colours(vae: AutoencoderKL) -> AutoencoderKL:
    """The VAE with weights that make latents of mean colours (and grey), and blocks of latents.

    What the decoder's blocks could add starts at nothing, to be learnt.
    """
    for block in vae.modules():
        if hasattr(block, "conv2") and hasattr(block, "conv_shortcut"):
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(block.conv2.bias)
            if block.conv_shortcut is not None:
                _pass(block.conv_shortcut)
        elif type(block).__name__ == "Downsample2D":
            _pass(block.conv, taps=((0, 0), (0, 1), (1, 0), (1, 1)))
        elif type(block).__name__ == "Upsample2D":
            _pass(block.conv)
    for conv in (vae.quant_conv, vae.post_quant_conv):
        _pass(conv)
    for coder, taken in ((vae.encoder, 3), (vae.decoder, 4)):
        # In: colours, the same negated, two constants.
        weight, bias = coder.conv_in.weight, coder.conv_in.bias
        weight[:PASSING], bias[:PASSING] = 0, 0
        for channel in range(3):
            weight[channel, channel, 1, 1], weight[channel + 3, channel, 1, 1] = 1, -1
        bias[6], bias[7] = CONSTANT, -CONSTANT
        # Out: the halves together, and what the normalisation divided by.
        weight, bias = coder.conv_out.weight, coder.conv_out.bias
        nn.init.zeros_(weight)
        nn.init.zeros_(bias)
        deviation = (2 * (CONSTANT**2 + 1) / weight.shape[1]) ** 0.5
        for channel in range(3):
            weight[channel, channel, 1, 1] = deviation
            weight[channel, channel + 3, 1, 1] = -deviation
        if taken == 3:
            weight[3] = weight[:3].mean(dim=0)
            bias[4:] = -20.0  # log of a variance that is nothing
    return vae


def _pass(conv: nn.Conv2d, taps: tuple[tuple[int, int], ...] = ((-1, -1),)) -> None:
    """Each channel to itself by the mean of the taps; (-1, -1) is the middle."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    middle = conv.kernel_size[0] // 2
    for channel in range(min(conv.in_channels, conv.out_channels)):
        for row, column in taps:
            place = (middle, middle) if row < 0 else (row, column)
            conv.weight[channel, channel, place[0], place[1]] = 1 / len(taps)


def train_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose few merges are the world's words; any other text is spelt out."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one order of counting
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, end_of_word_suffix="</w>", special_tokens=[START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator((text.lower() for text in texts), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    vocabulary, merges = learnt["vocab"], [tuple(pair) for pair in learnt["merges"]]
    # CLIP's vocabulary has every byte also as the end of a word.
    for letter in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary.setdefault(f"{letter}</w>", len(vocabulary))
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, bos_token=START, eos_token=END, unk_token=END,
        pad_token=END, model_max_length=77,
    )  # fmt: skip


def colours(pictures: torch.Tensor) -> torch.Tensor:
    """The VAE's latents of pictures 8 times smaller than it takes them, `(n, 3, side, side)`."""
    return torch.cat([pictures, pictures.mean(dim=1, keepdim=True)], dim=1)


def train_decoder(vae: AutoencoderKL, chance: random.Random, steps: int) -> None:
    """Teaches the decoder, in place, to draw sharp pictures from their mean colours."""
    vae.decoder.train()
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=LEARNING_RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for step in range(steps):
        crops = []
        for _ in range(DECODER_BATCH):
            left, top = (8 * chance.randrange((512 - DECODER_CROP) // 8) for _ in range(2))
            # Scenes fill a good half of the picture: crops of its middle hold the most edges.
            picture = draw(random_scene(chance), 512)
            crops.append(picture[top : top + DECODER_CROP, left : left + DECODER_CROP])
        pixels = _tensor(np.stack(crops))
        drawn = vae.decode(colours(nn.functional.avg_pool2d(pixels, 8))).sample
        loss = (drawn - pixels).abs().mean()
        _step(loss, optimizer, schedule, vae.decoder)
        if step % 50 == 0 or step == steps - 1:
            logger.info("decoder: step %d of %d: L1 %.4f", step, steps, loss.item())
    vae.decoder.eval()


def train_unet(
    pipeline: StableDiffusionPipeline, chance: random.Random, scale: float = 1.0
) -> None:
    """Teaches UNet and text encoder, in place, to predict the noise in the world's latents."""
    scenes = [random_scene(chance) for _ in range(SCENES)]
    pictures = _tensor(np.stack([draw(scene, STAGES[-1][0]) for scene in scenes]))
    ids = torch.stack([
        token_windows(pipeline.tokenizer, [caption(scene, chance) for _ in range(CAPTIONS)])[:, 0]
        for scene in scenes
    ])  # fmt: skip
    nothing = token_windows(pipeline.tokenizer, [""])[0, 0]
    unet, text_encoder = pipeline.unet.train(), pipeline.text_encoder.train()
    both = nn.ModuleList([unet, text_encoder])
    stages = [(side, batch, round(steps * scale)) for side, batch, steps in STAGES]
    total = sum(steps for *_, steps in stages)
    optimizer = torch.optim.AdamW(both.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1.0) * max(1 - step / total, 0.01)
    )
    kept = pipeline.scheduler.alphas_cumprod
    for side, batch, steps in stages:
        latents = colours(nn.functional.adaptive_avg_pool2d(pictures, side))
        latents = latents * pipeline.vae.config.scaling_factor
        for step in range(steps):
            rows = torch.randint(len(scenes), (batch,))
            words = ids[rows, torch.randint(CAPTIONS, (batch,))]
            words[torch.rand(batch) < WITHOUT_WORDS] = nothing
            times = torch.randint(len(kept), (batch,))
            alpha = kept[times][:, None, None, None]
            noise = torch.randn(batch, *latents.shape[1:])
            noisy = alpha.sqrt() * latents[rows] + (1 - alpha).sqrt() * noise
            said = text_encoder(words).last_hidden_state
            loss = nn.functional.mse_loss(unet(noisy, times, said).sample, noise)
            _step(loss, optimizer, schedule, both)
            if step % 50 == 0 or step == steps - 1:
                logger.info("unet: side %d, step %d of %d: %.4f", side, step, steps, loss.item())
    both.eval()


def _tensor(pictures: np.ndarray) -> torch.Tensor:
    """`(n, side, side, 3)` uint8 to `(n, 3, side, side)` from -1 to 1."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _step(
    loss: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
    model: nn.Module,
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def make(output: Path, scale: float = 1.0) -> None:
    """Trains and writes the checkpoint in float16; `scale` multiplies the steps."""
    torch.set_num_threads(1)
    chance = random.Random(SEED)
    words = [caption(random_scene(chance), chance) for _ in range(5000)]
    pipeline = build(train_tokenizer(words))
    torch.manual_seed(SEED)
    train_unet(pipeline, chance, scale)
    pipeline.to(torch.float16).save_pretrained(output)
    train_decoder(pipeline.vae.float(), chance, round(DECODER_STEPS * scale))
    pipeline.to(torch.float16).save_pretrained(output)
    for weights in output.rglob("*.safetensors"):
        weights.chmod(0o644)  # the libraries leave some to their owner alone


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dream_o.render.make_miniature")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps (%(default)s)")
    arguments = parser.parse_args()
    log_to_stderr()
    make(arguments.output, arguments.scale)


if __name__ == "__main__":
    main()
