"""The original's denoising loop: diffusers' blocks, which compute everything in every step.

The order of operations is that of bytedance/DreamO's `dreamo/transformer.py`. The speed modes are
compared with this loop on the same weights.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)

from dream_o.blocks import DoubleBlock, SingleBlock
from dream_o.conditioning import EncodedPrompt, EncodedReference
from dream_o.library_internals import (
    attention_settings,
    set_attention_backend,
    step_cache_config,
)
from dream_o.sampling import position_ids, set_sigmas
from dream_o.transformer import (
    EMBEDDING_SCALE,
    IMAGE_TASK,
    REFERENCE_TASK,
    DreamOTransformer2DModel,
)


@contextmanager
def as_diffusers_made_it(transformer: DreamOTransformer2DModel) -> Iterator[None]:
    """Inside the block, projections are separate, attention is torch's and no steps are skipped."""
    blocks = [each for each in transformer.modules() if isinstance(each, DoubleBlock | SingleBlock)]
    kept = [
        (each.attn, each.attn.fused_projections, attention_settings(each.attn)[0])
        for each in blocks
    ]
    reuse = step_cache_config(transformer)
    if reuse is not None:
        transformer.disable_cache()
    for attention, *_ in kept:
        attention.fused_projections = False
        set_attention_backend(attention, AttentionBackendName.NATIVE)
    try:
        yield
    finally:
        for attention, fused, backend in kept:
            attention.fused_projections = fused
            set_attention_backend(attention, backend)
        if reuse is not None:
            transformer.enable_cache(reuse)


@torch.no_grad()
def plain_loop(
    transformer: DreamOTransformer2DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
    noise: torch.Tensor,
    grid: tuple[int, int],
    prompt: EncodedPrompt,
    references: Sequence[EncodedReference],
    steps: int,
    guidance: float,
) -> torch.Tensor:
    """Denoises `(1, tokens, 64)` to latents of the same shape.

    Call it inside `as_diffusers_made_it`.

    Args:
        noise: the packed noise.
        grid: the image's rows and columns in tokens.
        prompt, references: the encoded prompt, and the encoded references of slots 1, 2, ...
        steps: the number of steps.
        guidance: the distilled guidance scale.
    """
    latents = noise
    set_sigmas(scheduler, steps, noise.shape[1], noise.device)
    grids = [grid, *(each.grid for each in references)]
    ids = position_ids(prompt.prompt_embeds.shape[1], grids, noise.device)
    scale = torch.full((1,), guidance, device=noise.device)
    for timestep in scheduler.timesteps:
        time = timestep.expand(1).to(latents.dtype) / scheduler.config.num_train_timesteps
        velocity = plain_velocity(transformer, latents, time, scale, ids, prompt, references)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


def plain_velocity(
    transformer: DreamOTransformer2DModel,
    latents: torch.Tensor,
    time: torch.Tensor,
    guidance: torch.Tensor,
    ids: torch.Tensor,
    prompt: EncodedPrompt,
    references: Sequence[EncodedReference],
) -> torch.Tensor:
    """One forward pass of FLUX with DreamO's tokens, `(1, image tokens, 64)`.

    Args:
        latents: packed, `(1, image tokens, 64)`.
        time, guidance: `(1,)`.
        ids: positions of text, image and references, `(tokens, 3)`.
    """
    image = latents.shape[1]
    tokens = transformer.x_embedder(torch.cat([latents, *(each.latents for each in references)], 1))
    tokens = tokens + _token_embeddings(transformer, image, references)
    temb = transformer.time_text_embed(
        time * EMBEDDING_SCALE,
        guidance.to(latents.dtype) * EMBEDDING_SCALE,
        prompt.pooled_prompt_embeds,
    )
    text = transformer.context_embedder(prompt.prompt_embeds)
    rotary = transformer.pos_embed(ids)
    for block in transformer.transformer_blocks:
        text, tokens = FluxTransformerBlock.forward(block, tokens, text, temb, rotary)
    for block in transformer.single_transformer_blocks:
        text, tokens = FluxSingleTransformerBlock.forward(block, tokens, text, temb, rotary)
    return transformer.proj_out(transformer.norm_out(tokens, temb))[:, :image]


def _token_embeddings(
    transformer: DreamOTransformer2DModel, image: int, references: Sequence[EncodedReference]
) -> torch.Tensor:
    """The embeddings of image tokens and of each slot's tokens, `(image + references, dim)`."""
    task, slots = transformer.task_embedding.weight, transformer.idx_embedding.weight
    return torch.cat(
        [
            task[IMAGE_TASK].expand(image, -1),
            *(
                (task[REFERENCE_TASK] + slots[slot]).expand(each.latents.shape[1], -1)
                for slot, each in enumerate(references, start=1)
            ),
        ]
    )
