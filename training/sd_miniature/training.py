"""Runs all stages of the training of DreamRender's miniature, and writes its checkpoint."""

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from dream_o.errors import InputError
from training.sd_miniature.captions import random_caption, vocabulary
from training.sd_miniature.denoiser import Phase, Sizes, denoiser_stage
from training.sd_miniature.model import build, grown, train_outer_level_alone
from training.sd_miniature.preview import preview_sheet
from training.sd_miniature.text import right_shares, text_stage
from training.stage import train
from training.tokenizers import clip_tokenizer
from training.work import check_recipe, save_once

logger = logging.getLogger(__name__)

CPU_MINUTES = 26  # minutes on one idle core for all stages of RECIPE
CAPTIONS_JUDGED = 400


@dataclass(frozen=True)
class Recipe:
    """The steps of a training, in order, and the seed of all randomness."""

    text_steps: int
    phases: tuple[Phase, ...]
    seed: int = 0

    def scaled(self, share: float) -> "Recipe":
        """The recipe with this share of its steps."""
        return replace(
            self,
            text_steps=max(1, round(self.text_steps * share)),
            phases=tuple(
                replace(each, steps=max(1, round(each.steps * share))) for each in self.phases
            ),
        )


SMALL: Sizes = (((32, 32), 24, 1.0, 1.0),)
FULL: Sizes = (((64, 64), 12, 1.0, 1.0),)
RECIPE = Recipe(
    text_steps=600,
    phases=(
        Phase("small", 700, SMALL, decay=0.2),
        Phase("prompt", 288, SMALL, rate=0.6, decay=0.0, blind=0.4),
        Phase("colour", 480, SMALL, rate=0.5, decay=0.6, blind=0.25, repainted=0.5),
        Phase("more", 540, SMALL, rate=0.5, decay=0.6, blind=0.25, repainted=0.4),
        Phase("full", 300, FULL, rate=0.7, decay=0.6, repainted=0.2, grown=True),
    ),
)


def run(
    folder: Path, output: Path, recipe: Recipe, last: str | None = None, save_every: float = 60.0
) -> None:
    """Trains the stages that are not finished in `folder`, up to `last`, and writes the checkpoint.

    Args:
        folder: the folder of checkpoints and logs; with the same recipe, a stopped run continues.
        output: the folder of the finished checkpoint, in float16.
        recipe: the steps.
        last: `text` or the name of a phase, after which nothing is written; None for all of them.
        save_every: seconds between checkpoints.

    Raises:
        InputError: the stage does not exist, or the folder contains another recipe's training.
    """
    names = ["text", *(each.name for each in recipe.phases)]
    if last is not None and last not in names:
        raise InputError("stage", f"{last!r} does not exist; use {', '.join(names)}")
    folder.mkdir(parents=True, exist_ok=True)
    check_recipe(folder, asdict(recipe))
    pipeline = build(clip_tokenizer(vocabulary()), recipe.seed)
    stage, reader = text_stage(pipeline.text_encoder, pipeline.tokenizer, recipe.text_steps)
    train(stage, folder, recipe.seed, save_every)
    random = np.random.default_rng(recipe.seed)
    captions = [random_caption(random) for _ in range(CAPTIONS_JUDGED)]
    for name, share in right_shares(reader, pipeline.tokenizer, captions).items():
        logger.info("text: %s is right in %.1f%% of captions", name, 100 * share)
    pipeline.text_encoder.requires_grad_(False)
    if last == "text":
        return
    for phase in recipe.phases:
        if phase.grown:
            pipeline.register_modules(unet=grown(pipeline.unet))
            train_outer_level_alone(pipeline.unet)
        train(denoiser_stage(pipeline, phase), folder, recipe.seed, save_every)
        save_once(folder / f"{phase.name}.png", partial(preview_sheet, pipeline))
        if last == phase.name:
            return
    write(pipeline, output)
    logger.info("wrote %s", output.name)


def write(pipeline: StableDiffusionPipeline, output: Path) -> None:
    """Writes the checkpoint in float16."""
    pipeline.to(torch.float16).save_pretrained(output)
    for weights in output.rglob("*.safetensors"):
        weights.chmod(0o644)  # the libraries make some files readable by their owner only
