"""An initialisation of the transformer in which image tokens know their position and can copy.

FLUX.1 encodes positions only as rotations of tokens relative to each other, and all text tokens are
at the origin: relative to those, a token's rotation is its position. Training learns that slowly.
Here three heads of the first block are initialised to attend to the prompt's registers
(`tokenizers.REGISTERS`). Each register gets most attention from one row, one column, or one
combination of both. Initially these heads ignore all tokens but registers.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dream_o.transformer import DreamOTransformer2DModel

# FLUX.1's rotary base (black-forest-labs/flux, src/flux/util.py).
THETA = 10_000
SPACING = 2.0  # tokens between the positions of neighbouring registers
# Initial strength of the rotary channel pairs of rows and columns, fastest first.
PAIR_STRENGTH = (1.0, 1.3, 1.2, 0.7)
BLIND_SHARE = 0.25  # share of a query's energy that suppresses everything except registers
SHARPNESS = 1.1
LOUDNESS = 6.0
# PAIR_STRENGTH and SHARPNESS of the heads that copy, which must distinguish neighbours.
COPY_STRENGTH, COPY_SHARPNESS = (2.2, 1.3, 1.2, 0.7), 1.8


def set_places(
    transformer: DreamOTransformer2DModel, states: torch.Tensor, registers: torch.Tensor
) -> None:
    """Sets the first block's heads 0 to 2.

    Args:
        transformer: an untrained transformer.
        states: T5's output for the tokens of many prompts, `(tokens, joint_attention_dim)`.
        registers: the index of each token's register, or -1 for other tokens, `(tokens,)` int64.
    """
    block: Any = transformer.transformer_blocks[0]
    attention = block.attn
    width = transformer.config.attention_head_dim
    first, row_width, column_width = transformer.config.axes_dims_rope
    axes = ((first, row_width), (first + row_width, column_width))
    generator = torch.Generator().manual_seed(0)
    count = int(registers.max()) + 1
    queries, keys = [], []
    for head in range(3):
        query, key = torch.zeros(width), torch.zeros(count, width)
        for number, (start, size) in enumerate(axes):
            if head not in (number, 2):
                continue
            for pair, strength in enumerate(PAIR_STRENGTH[: size // 2]):
                turn = THETA ** (-2 * pair / size)
                phase = turn * (SPACING * torch.arange(count) + SPACING / 2)
                if head == 2:
                    phase = 2 * math.pi * torch.rand(count, generator=generator)
                at = start + 2 * pair
                query[at] = strength
                key[:, at], key[:, at + 1] = strength * phase.cos(), strength * phase.sin()
        query = query / query.norm() * math.sqrt(width * (1 - BLIND_SHARE))
        query[:first] = math.sqrt(width * BLIND_SHARE / first)
        queries.append(query)
        keys.append(key / key.norm(dim=1, keepdim=True) * math.sqrt(width))
    blind = torch.zeros(width)
    blind[:first] = -math.sqrt(width / first)

    with torch.no_grad():
        sees = slice(0, 3 * width)
        for linear, bias in (
            (attention.to_q, torch.cat(queries)),
            (attention.to_k, blind.repeat(3)),
        ):
            linear.weight[sees] *= 0.1
            linear.bias[sees] = bias
        wanted = torch.cat(keys, dim=1)  # (registers, 3 * width)
        wanted = torch.cat([wanted, blind.repeat(1, 3)])[registers]
        # Keys are computed from normalised text tokens, initially without modulation.
        inputs = nn.functional.layer_norm(
            transformer.context_embedder(states), (transformer.inner_dim,)
        )
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        ridge = 1e-3 * len(inputs) * torch.eye(inputs.shape[1])
        solved = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted)
        attention.add_k_proj.weight[sees] = solved[:-1].T
        attention.add_k_proj.bias[sees] = solved[-1]
        # Their output is written with a large scale into channels that the latents do not use.
        attention.add_v_proj.weight[sees] *= LOUDNESS
        written = attention.to_out[0].weight[:, sees]
        written[: transformer.config.in_channels] = 0.0
        for norm in (attention.norm_q, attention.norm_k, attention.norm_added_k):
            norm.weight.fill_(SHARPNESS)


def set_copies(transformer: DreamOTransformer2DModel, ways: Sequence[tuple[int, int]]) -> None:
    """Initialises the second block's first heads to attend at a fixed offset.

    A head attends from each token to the one `rows` below and `columns` to the right. It copies if
    this is the offset from image tokens to the reference tokens with the same content.

    Args:
        transformer: an untrained transformer.
        ways: the offset (rows, columns) of each head.
    """
    block: Any = transformer.transformer_blocks[1]
    attention = block.attn
    width = transformer.config.attention_head_dim
    first, *sizes = transformer.config.axes_dims_rope
    query, key = torch.zeros(len(ways), width), torch.zeros(len(ways), width)
    for head, way in enumerate(ways):
        start = first
        for tokens, size in zip(way, sizes, strict=True):
            for pair, strength in enumerate(COPY_STRENGTH[: size // 2]):
                angle = THETA ** (-2 * pair / size) * tokens
                at = start + 2 * pair
                query[head, at] = strength * math.cos(angle)
                query[head, at + 1] = strength * math.sin(angle)
                key[head, at] = strength
            start += size
    sees = slice(0, len(ways) * width)
    with torch.no_grad():
        for linear, bias in ((attention.to_q, query), (attention.to_k, key)):
            linear.weight[sees] *= 0.1
            linear.bias[sees] = bias.flatten()
        attention.to_v.weight[sees] *= LOUDNESS
        attention.to_out[0].weight[: transformer.config.in_channels, sees] = 0.0
        for norm in (attention.norm_q, attention.norm_k):
            norm.weight.fill_(COPY_SHARPNESS)
