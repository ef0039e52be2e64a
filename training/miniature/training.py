"""Runs all training stages: text encoders, VAE, references, transformer and bundle."""

import logging
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL
from PIL import Image

from dream_o.errors import InputError
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.format.staging import check_target
from training.miniature.autoencoder import autoencoder_stage, new_autoencoder
from training.miniature.bundle import assemble, write
from training.miniature.denoiser import denoiser_stage, prepared_transformer
from training.miniature.encoder import Encoder
from training.miniature.examples import TASKS, random_example
from training.miniature.pool import Pool, fill_pool, references
from training.miniature.preview import preview_sheet
from training.miniature.samples import (
    reconstruction_sheet,
    reference_sheet,
    text_sheet,
)
from training.miniature.text import (
    TextEncoders,
    new_text_encoders,
    random_caption,
    right_share,
    share_reference_names,
    text_stage,
)
from training.miniature.tokenizers import clip_tokenizer, t5_tokenizer
from training.parts import beside, check_shared_memory, one_thread
from training.stage import train
from training.work import check_recipe, save_once
from training.world.drawing import draw_tiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Density:
    """A stage of the transformer's training.

    Attributes:
        name: the name of its checkpoint.
        steps: the number of steps.
        batch: the number of examples in a step, a multiple of the recipe's `parts`.
        cell: one token of each `cell x cell` tokens is used; 1 uses all of them.
        rate: the share of the full learning rate.
        decay: the last share of the steps, over which the rate falls to zero.
        lean: below 1, noise levels are higher than the sampler's.
        split: the number of cells into which a cell is split where a prompt's things are, in images
            without a person; things have the finest detail.
        described: the share of batches without references, in addition to the usual ones.
    """

    name: str
    steps: int
    batch: int
    cell: int
    rate: float = 1.0
    decay: float = 0.6
    lean: float = 1.0
    split: int = 1
    described: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """The sizes and steps of a training.

    Attributes:
        channels: the transformer's channels, a multiple of 32.
        text_steps, vae_steps: the steps of the first two stages.
        densities: the transformer's stages, in order.
        pool_share: the share of the references that are drawn and encoded.
        parts: the number of processes, of one thread each, that share a step's batch. Another
            number gives another result.
        seed: the seed of all randomness.
    """

    channels: int
    text_steps: int
    vae_steps: int
    densities: tuple[Density, ...]
    pool_share: float = 1.0
    parts: int = 1
    seed: int = 0

    def scaled(self, share: float) -> "Recipe":
        """The recipe with this share of its steps."""
        return replace(
            self,
            text_steps=max(1, round(self.text_steps * share)),
            vae_steps=max(1, round(self.vae_steps * share)),
            densities=tuple(
                replace(each, steps=max(1, round(each.steps * share))) for each in self.densities
            ),
        )


CPU = Recipe(
    channels=128,
    text_steps=1800,
    vae_steps=620,
    densities=(
        Density("sparse", steps=4400, batch=16, cell=4, lean=0.65),
        Density("settled", steps=1500, batch=16, cell=4, rate=0.4, decay=0.9, lean=0.65, split=2),
        # Things that only a prompt describes are the hardest, and these batches the cheapest.
        Density(
            "outlines", steps=2200, batch=16, cell=4, rate=0.5, lean=0.65, split=2, described=0.7
        ),
    ),
    parts=2,
)
# Not tested: this recipe has not been run on a GPU.
GPU = Recipe(
    channels=192,
    text_steps=1500,
    vae_steps=2500,
    densities=(
        Density("sparse", steps=8000, batch=64, cell=4, lean=0.65),
        Density("dense", steps=1500, batch=8, cell=1, rate=0.3, decay=1.0),
    ),
)
RECIPES = {"cpu": CPU, "cuda": GPU}
CPU_MINUTES = 100  # minutes on two idle cores for all stages of CPU

STAGES = ("text", "vae", "references", "transformer", "bundle")
POOL_PART = 128  # references in a file; drawing and encoding them takes about half a minute
PREVIEW_SIZE = (48, 48)
CAPTIONS_JUDGED = 200
TEXT_SHEET = "text.png"  # drawn when the text encoders are finished


def run(
    folder: Path,
    bundle: Path,
    recipe: Recipe,
    last: str = "bundle",
    device: str = "cpu",
    save_every: float = 60.0,
) -> None:
    """Trains the stages that are not finished in `folder`, up to `last`, and writes the bundle.

    Args:
        folder: the folder of checkpoints and logs; with the same recipe, a stopped run continues.
        bundle: the folder of the finished bundle.
        recipe: the sizes and steps.
        last: one of STAGES.
        device: `cpu` or `cuda`.
        save_every: seconds between checkpoints.

    Raises:
        InputError: the stage does not exist, or the folder contains another recipe's training.
        BundleError: the folder exists and is not a bundle.
        UserError: there is too little shared memory, or another process ended early.
    """
    if last not in STAGES:
        raise InputError("stage", f"{last!r} does not exist; use {', '.join(STAGES)}")
    check_target(bundle)
    if recipe.parts > 1:
        check_shared_memory()
    folder.mkdir(parents=True, exist_ok=True)
    check_recipe(folder, {"device": device, **asdict(recipe)})
    with one_thread():  # the rounding of sums depends on the number of threads
        _run(folder, bundle, recipe, last, device, save_every)


def _run(
    folder: Path, bundle: Path, recipe: Recipe, last: str, device: str, save_every: float
) -> None:
    of_text = folder, recipe, device, save_every
    if last == "text":
        _report_text(_text_encoders(*of_text), folder, recipe.seed)
        return
    # The text encoders and the VAE do not need each other.
    at_once = recipe.parts > 1 and not (folder / TEXT_SHEET).exists()
    with beside(_train_text, *of_text) if at_once else nullcontext():
        vae = _vae(folder, recipe, device, save_every)
        pool = None if last == "vae" else load_pool(folder, vae, recipe)
    encoders = _text_encoders(*of_text)
    _report_text(encoders, folder, recipe.seed)
    if pool is None:
        return
    save_once(folder / "references.png", partial(reference_sheet, recipe.seed))
    if last == "references":
        return
    t5, clip = t5_tokenizer(), clip_tokenizer()
    encoder = Encoder(encoders, t5, clip)
    transformer = prepared_transformer(encoder, recipe.seed, recipe.channels)
    train_densities(transformer, encoder, pool, recipe, folder, save_every)
    if last == "transformer":
        return
    write(assemble(encoders.cpu(), t5, clip, vae.cpu(), transformer.cpu()), bundle)
    logger.info("wrote %s", bundle.name)


def _text_encoders(folder: Path, recipe: Recipe, device: str, save_every: float) -> TextEncoders:
    t5, clip = t5_tokenizer(), clip_tokenizer()
    encoders = new_text_encoders(t5, clip, recipe.seed).to(device)
    train(text_stage(encoders, t5, clip, recipe.text_steps), folder, recipe.seed, save_every)
    share_reference_names(encoders, t5)
    return encoders


def _train_text(_: Connection, *arguments: Any) -> None:
    _text_encoders(*arguments)


def _report_text(encoders: TextEncoders, folder: Path, seed: int) -> None:
    t5, clip = t5_tokenizer(), clip_tokenizer()
    random = np.random.default_rng(seed)
    captions = [random_caption(random) for _ in range(CAPTIONS_JUDGED)]
    for name, (read, pooled) in right_share(encoders, t5, clip, captions).items():
        logger.info(
            "text: %s is right in %.0f%% of captions by T5, in %.0f%% by CLIP",
            name,
            100 * read,
            100 * pooled,
        )
    said = [caption for caption, _ in captions]
    save_once(folder / TEXT_SHEET, partial(text_sheet, encoders, t5, said))


def _vae(folder: Path, recipe: Recipe, device: str, save_every: float) -> AutoencoderKL:
    vae = new_autoencoder(recipe.seed).to(device)
    train(autoencoder_stage(vae, recipe.vae_steps), folder, recipe.seed, save_every)
    save_once(folder / "vae.png", partial(reconstruction_sheet, vae, recipe.seed))
    return vae.requires_grad_(False)


def load_pool(folder: Path, vae: AutoencoderKL, recipe: Recipe) -> Pool:
    """Loads the references of a run; draws and encodes those that are not in the folder yet.

    They are in several files, so that a run that is stopped loses little.
    """
    wanted = references(np.random.default_rng(recipe.seed), recipe.pool_share)
    parts = []
    for number, start in enumerate(range(0, len(wanted), POOL_PART)):
        path = folder / f"references-{number}.safetensors"
        if not path.exists():
            random = np.random.default_rng([recipe.seed, number])
            fill_pool(vae, random, wanted[start : start + POOL_PART]).save(path)
            logger.info("references: %d of %d", min(start + POOL_PART, len(wanted)), len(wanted))
        parts.append(Pool.load(path))
    return Pool.joined(parts)


def train_densities(
    transformer: DreamOTransformer2DModel,
    encoder: Encoder,
    pool: Pool,
    recipe: Recipe,
    folder: Path,
    save_every: float = 60.0,
) -> None:
    """Trains the transformer in place, at one density after another."""
    for each in recipe.densities:
        stage = denoiser_stage(
            each.name,
            transformer,
            encoder,
            pool,
            each.steps,
            each.batch,
            each.cell,
            each.rate,
            each.decay,
            lean=each.lean,
            split=each.split,
            described=each.described,
            parts=recipe.parts,
        )
        train(stage, folder, recipe.seed, save_every)
        save_once(
            folder / f"{each.name}.png", partial(training_preview, transformer, encoder, pool)
        )


def training_preview(
    transformer: DreamOTransformer2DModel, encoder: Encoder, pool: Pool
) -> Image.Image:
    """Draws a sheet with the output and the target of held-out examples of every task."""
    random = np.random.default_rng(0)
    groups = [[random_example(random, tasks, held_out=True) for _ in range(3)] for tasks in TASKS]
    wanted = [
        [draw_tiles(each.contents, *PREVIEW_SIZE, random) for each in group] for group in groups
    ]
    return preview_sheet(transformer, encoder, pool, groups, wanted, PREVIEW_SIZE, 0)
