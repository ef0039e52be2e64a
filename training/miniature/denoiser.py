"""The miniature's transformer: its initialisation, its loss and its training stage."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from dream_o.sampling import time_shift
from dream_o.transformer import DreamOTransformer2DModel
from training.draw import Draw
from training.miniature.autoencoder import tile_latents
from training.miniature.bundle import SCHEDULER
from training.miniature.contrast import chosen_colours
from training.miniature.encoder import Encoder, Text
from training.miniature.examples import FORMS, Example, random_example, random_partial
from training.miniature.places import set_copies, set_places
from training.miniature.pool import GRID, Pool
from training.miniature.text import POOLED_WIDTH, T5_WIDTH
from training.miniature.tokens import (
    Box,
    Chosen,
    attention_bias,
    choose,
    choose_patches,
    chosen_ids,
    moved,
    shift_times,
)
from training.optimisers import optimisers
from training.stage import Stage
from training.world.colours import BRIGHTNESS
from training.world.drawing import COPY_FROM_END, subject_at

T = TypeVar("T")

BATCH = 16
# (rows, columns) of images, and their frequencies.
SIZES: Sequence[tuple[tuple[int, int] | None, float]] = (
    ((64, 64), 0.5),
    ((48, 48), 0.2),
    ((48, 64), 0.1),
    ((64, 48), 0.1),
    (None, 0.1),
)
# The reference tasks of a batch, and their frequencies.
MIX: Sequence[tuple[tuple[str, ...], float]] = (
    ((), 0.42),
    (("ip",), 0.12),
    (("id",), 0.08),
    (("style",), 0.14),
    (("id", "ip"), 0.16),
    (("ip", "id"), 0.08),
)
# Inside these rows and columns one token of each cell is used, and outside one of each block.
_LEFT, _ALL = (8, 48, 0, 32), (8, 48, 0, 48)
FOCUS: Mapping[tuple[str, ...], Box] = {
    (): _ALL,
    ("ip",): (0, 0, 0, 0),
    ("id",): _LEFT,
    ("style",): _ALL,
    ("id", "ip"): _LEFT,
    ("ip", "id"): _LEFT,
}
# The same for a batch of one form. Its cells are split where it has things.
FORM_FOCUS: Mapping[str, Box] = {
    "one": (16, 48, 16, 48),
    "two": (24, 48, 0, 48),
    "person": _LEFT,
    "both": _ALL,
}
SPLIT_FORMS = ("one", "two")
PLAIN_SHARE = 0.15  # the share of batches without references, for true CFG's negative pass
SECOND_SLOT_SHARE = 0.15
GUIDANCE = 3.5  # at this guidance and above, colours are fully saturated
MUON, ADAM = 0.012, 3e-3
PALE = 0.5  # the saturation of colours at a guidance of 0


def new_transformer(seed: int, channels: int = 128) -> DreamOTransformer2DModel:
    """An untrained transformer with small initial blocks, whose output is initially its input."""
    torch.manual_seed(seed)
    transformer = DreamOTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=channels // 32,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )
    with torch.no_grad():
        nn.init.normal_(transformer.task_embedding.weight, std=0.5)
        nn.init.normal_(transformer.idx_embedding.weight, std=0.5)
        for linear in (transformer.x_embedder, transformer.proj_out):
            linear.bias.zero_()
            nn.init.eye_(linear.weight)
        transformer.x_embedder.weight.mul_(0.5)
        for name, module in transformer.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if "norm" in name:  # a block's modulation: shifts, scales, gates
                module.weight.mul_(0.3)
                module.bias.zero_()
                parts = module.bias.view(-1, transformer.inner_dim)
                parts[{6: [2, 5], 3: [2]}.get(len(parts), [])] = 1.0
            elif name.endswith(("to_out.0", "to_add_out", "net.2", "proj_out")) and "block" in name:
                module.weight.mul_(0.5)
                module.bias.zero_()
    return transformer


def _one_of(random: np.random.Generator, options: Sequence[tuple[T, float]]) -> T:
    return options[random.choice(len(options), p=[chance for _, chance in options])][0]


def batch_loss(
    transformer: DreamOTransformer2DModel,
    encoder: Encoder,
    pool: Pool,
    draw: Draw,
    batch: int = BATCH,
    cell: int = 4,
    lean: float = 1.0,
    split: int = 1,
    described: float = 0.0,
) -> torch.Tensor:
    """The error of the velocity on selected tokens of a batch with one size and one task.

    Args:
        transformer: the transformer in training.
        encoder: encodes the prompts.
        pool: the references.
        draw: the randomness; its `common` chooses the size and the tasks.
        batch: the number of examples.
        cell: one token of each `cell x cell` tokens is used; 1 is full density.
        lean: below 1, noise levels are higher than the sampler's, which trains the steps that
            decide the content.
        split: above 1, each batch whose prompts describe the whole image has one of FORMS. If it is
            one of SPLIT_FORMS, a cell with a thing becomes so many cells. It must divide `cell`.
        described: the share of batches without references, in addition to those of MIX.
    """
    random, common = draw.numpy, draw.common
    alone = described > 0 and common.random() < described
    tasks = () if alone else _one_of(common, MIX)
    any_size = (int(4 * common.integers(8, 21)), int(4 * common.integers(8, 21)))
    rows, columns = _one_of(common, SIZES) or any_size
    plain = tasks == () and common.random() < PLAIN_SHARE
    form = _one_of(common, FORMS[tasks]) if split > 1 and tasks in FORMS else ""
    examples: list[Example] = [
        random_partial(random, form)
        if plain
        else random_example(random, tasks, held_out=False, form=form)
        for _ in range(batch)
    ]
    text = encoder([each.prompt for each in examples])

    patches, around = choose_patches(GRID, random)
    whole = None
    if "ip" in tasks and cell > 1:
        whole = moved(patches, subject_at(True, rows, columns), (rows, columns))
    focus = FORM_FOCUS[form] if form else FOCUS[tasks]
    cells = (cell, cell // split if form in SPLIT_FORMS else cell)
    chosen = choose(rows, columns, random, cells, focus, whole)
    guidance = torch.full((batch,), GUIDANCE)
    pale = torch.from_numpy(random.random(batch) < 0.3)
    guidance[pale] = torch.from_numpy(random.uniform(0, 8, batch)).float()[pale]
    colours, excess = chosen_colours(examples, (rows, columns), chosen, random)
    full = (PALE + (1 - PALE) * guidance / GUIDANCE).clamp(max=1.0)[:, None, None]
    clean, excess = (tile_latents(_saturated(each, full)) for each in (colours, excess))

    uniform = torch.rand(batch, generator=draw.torch) ** lean
    times = shift_times(uniform, time_shift(SCHEDULER, rows * columns))
    noise = torch.randn(clean.shape, generator=draw.torch)
    device = transformer.device
    clean, noise, times = clean.to(device), noise.to(device), times.to(device)
    excess = excess.to(device)
    reached = torch.rand(batch, 1, 1, generator=draw.torch).to(device) * excess
    share = times[:, None, None]
    mixed = (1 - share) * (clean - reached) + share * noise

    parts: list[Chosen] = []
    tokens = []
    for number, task in enumerate(tasks):
        copied = task == "ip" and cell > 1
        part = choose(GRID, GRID, random, 8 if copied else cell, whole=around if copied else None)
        latents = torch.stack([pool.find(each.references[number], random) for each in examples])
        slot = number + 1
        if len(tasks) == 1 and random.random() < SECOND_SLOT_SHARE:
            slot = 2
        tokens.append(
            transformer.embed_reference(
                latents[:, part.rows * GRID + part.columns].to(device), slot
            )
        )
        parts.append(part)
    temb = transformer.embed_time(times, guidance.to(device), text.pooled_prompt_embeds)
    velocity = velocity_of(
        transformer, mixed, text, temb, chosen, (rows, columns), tokens, parts, not plain
    )
    error = velocity - (noise - clean)
    if plain:  # the error of the image that the velocity leads to, which is `clean + excess`
        error = share * error + (1 - share) * reached + excess
    return error.square().mean()


def _saturated(colours: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Colours `(..., 3)` with a share of their saturation."""
    grey = (colours @ torch.from_numpy(BRIGHTNESS).float())[..., None]
    return grey + share * (colours - grey)


def velocity_of(
    transformer: DreamOTransformer2DModel,
    latents: torch.Tensor,
    text: Text,
    temb: torch.Tensor,
    chosen: Chosen,
    size: tuple[int, int],
    reference_tokens: list[torch.Tensor],
    parts: list[Chosen],
    token_embeddings: bool = True,
) -> torch.Tensor:
    """The transformer's velocity of selected tokens, at their positions in the full image.

    Args:
        transformer: the miniature's transformer.
        latents: the latents of the selected tokens, `(batch, chosen, 64)`.
        text: the encoded prompts.
        temb: the time embedding, `(batch, dim)`.
        chosen: the selected tokens of the image.
        size: the rows and columns of the image.
        reference_tokens: the selected tokens of each reference, `(batch, tokens, dim)`.
        parts: the selection of each reference.
        token_embeddings: whether to add DreamO's token embeddings; without them the transformer is
            plain FLUX, as in the negative pass.
    """
    text_tokens = text.prompt_embeds.shape[1]
    places = chosen_ids(text_tokens, chosen, size, parts, GRID).to(latents.device)
    velocity: torch.Tensor = transformer(
        hidden_states=latents,
        encoder_hidden_states=transformer.embed_text(text.prompt_embeds),
        modulation=transformer.modulation(temb),
        rotary=transformer.embed_positions(places, text_tokens, len(chosen.rows)),
        reference_tokens=torch.cat(reference_tokens, dim=1) if reference_tokens else None,
        token_embeddings=token_embeddings,
        attention_bias=attention_bias(text.weights, [chosen, *parts]),
    )
    return velocity


def prepared_transformer(
    encoder: Encoder, seed: int, channels: int = 128
) -> DreamOTransformer2DModel:
    """An untrained transformer, initialised with the registers of these text encoders."""
    transformer = new_transformer(seed, channels)
    random = np.random.default_rng(seed)
    prompts = [random_example(random, (), held_out=False).prompt for _ in range(96)]
    set_places(transformer, *encoder.tokens(prompts))
    rows, columns = COPY_FROM_END
    set_copies(transformer, [(rows, columns), (rows + GRID, columns + GRID)])
    return transformer.to(encoder.encoders.t5.device)


def denoiser_stage(
    name: str,
    transformer: DreamOTransformer2DModel,
    encoder: Encoder,
    pool: Pool,
    steps: int,
    batch: int = BATCH,
    cell: int = 4,
    rate: float = 1.0,
    decay: float = 0.6,
    lean: float = 1.0,
    split: int = 1,
    described: float = 0.0,
    parts: int = 1,
) -> Stage:
    """The training stage of the transformer at one density.

    `batch` examples are divided among the parts; it must be a multiple of their number.
    """
    if batch % parts:
        raise ValueError(f"{batch} examples cannot be divided into {parts} equal parts")
    return Stage(
        name,
        transformer,
        optimisers(
            transformer,
            muon_rate=MUON * rate,
            adam_rate=ADAM * rate,
            apart=("x_embedder", "context_embedder", "_embedding", "time_text_embed"),
            workers=parts,  # the other parts wait for the step, so their cores are free
        ),
        partial(
            batch_loss,
            transformer,
            encoder,
            pool,
            batch=batch // parts,
            cell=cell,
            lean=lean,
            split=split,
            described=described,
        ),
        steps,
        horizon=60,
        decay=decay,
        parts=parts,
    )
