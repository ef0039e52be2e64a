"""FLUX's two kinds of transformer block as plain functions over diffusers' own modules.

They compute the same as diffusers' blocks with fewer passes over the tokens: one joint sequence
through all single-stream blocks, scale and shift in one operation, rotation as one complex
product. The last block can skip the tokens whose result is not used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import nn

from dream_o.library_internals import attention_settings
from dream_o.onednn import (
    Input,
    eager_float32,
    linear,
    linear_gelu,
    linear_joined,
    shared_input,
)

# diffusers' blocks and attention modules; mypy does not know the types of their submodules.
Block = Any

# float16 activations are clipped to plus and minus this value, as in diffusers.
FLOAT16_MAX = 65504.0


class ProjectionNames(NamedTuple):
    """diffusers' names of one stream's projections in an attention module, and of their norms."""

    fused: str
    separate: tuple[str, str, str]
    norms: tuple[str, str]


IMAGE_STREAM = ProjectionNames("to_qkv", ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
TEXT_STREAM = ProjectionNames(
    "to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")
)


def rotate(tokens: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Applies rotary position embeddings: rotates pairs of channels by each token's angles.

    Args:
        tokens: `(batch, tokens, heads, head_dim)`.
        rotary: cosines and sines, `(tokens, head_dim / 2, 2)` float32.

    Returns:
        A tensor of the shape and dtype of `tokens`, computed in float32.
    """
    pairs = tokens.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling() or tokens.device.type == "mps":
        # The compiler fuses these operations and does not support complex numbers.
        real, imaginary = pairs.unbind(-1)
        cosine, sine = rotary[:, None].unbind(-1)
        turned = torch.stack(
            [real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1
        )
    else:
        turned = torch.view_as_real(
            torch.view_as_complex(pairs) * torch.view_as_complex(rotary)[:, None]
        )
    return turned.flatten(-2).to(tokens.dtype)


DOUBLE_ROWS, SINGLE_ROWS = 12, 3
"""Rows of modulation per block: a shift, a scale and a gate for each normalisation.

A double-stream block has two normalisations for text, then two for the image; a single-stream block
has one.
"""


def modulate(
    norm: nn.Module, tokens: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> torch.Tensor:
    """Normalised tokens, scaled and shifted; `scale` and `shift` are `(batch, dim)`."""
    return torch.addcmul(shift[:, None], norm(tokens), 1 + scale[:, None])


def add_gated(tokens: torch.Tensor, gate: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """`tokens + gate * change`; `gate` is `(batch, dim)`."""
    tokens = torch.addcmul(tokens, gate[:, None], change)
    if tokens.dtype == torch.float16:
        tokens = tokens.clip(-FLOAT16_MAX, FLOAT16_MAX)
    return tokens


def feed_forward(layers: Block, tokens: torch.Tensor) -> torch.Tensor:
    """diffusers' FeedForward with FLUX's activation."""
    widen, _, narrow = layers.net
    return linear(narrow, linear_gelu(widen.proj, tokens))


def rms_norm(norm: Block, heads: torch.Tensor) -> torch.Tensor:
    """torch's RMSNorm of each head's channels.

    In eager float32 it works in place, with half of torch's passes over the tokens; the input is
    not used again.
    """
    if not eager_float32(heads):
        return norm(heads)
    length = torch.linalg.vector_norm(heads, dim=-1, keepdim=True)
    mean_square = length.square_().div_(heads.shape[-1])
    return heads.mul_(mean_square.add_(norm.eps).rsqrt_()).mul_(norm.weight)


def _heads(attention: Block, projected: torch.Tensor) -> torch.Tensor:
    return projected.unflatten(-1, (-1, attention.head_dim))


def _projections(
    attention: Block, tokens: Input, names: ProjectionNames = IMAGE_STREAM
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, normalised, each `(batch, tokens, heads, head_dim)`."""
    if attention.fused_projections:
        parts = linear(getattr(attention, names.fused), tokens).chunk(3, dim=-1)
    else:
        given = shared_input(getattr(attention, names.separate[0]), tokens)
        parts = tuple(linear(getattr(attention, name), given) for name in names.separate)
    query, key, value = (_heads(attention, part) for part in parts)
    norm_query, norm_key = (getattr(attention, name) for name in names.norms)
    return rms_norm(norm_query, query), rms_norm(norm_key, key), value


def _attend(
    attention: Block,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """The attention output, `(batch, queries, dim)`, by the attention module's backend."""
    backend, parallel_config = attention_settings(attention)
    seen = dispatch_attention_fn(
        query,
        key,
        value,
        attn_mask=bias,
        backend=backend,
        parallel_config=parallel_config,
    )
    return seen.flatten(2).to(query.dtype)


def double_block(
    block: Block,
    text: torch.Tensor,
    tokens: torch.Tensor,
    modulation: torch.Tensor,
    rotary: torch.Tensor,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Applies a double-stream block, which has separate weights for text and image tokens.

    `modulation` is `(batch, DOUBLE_ROWS, dim)`.
    """
    of_text, of_image = modulation.split(DOUBLE_ROWS // 2, dim=1)
    text_shift, text_scale, text_gate, text_mlp_shift, text_mlp_scale, text_mlp_gate = (
        of_text.unbind(1)
    )
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = of_image.unbind(1)

    attention = block.attn
    image_stream = _projections(attention, modulate(block.norm1.norm, tokens, scale, shift))
    text_stream = _projections(
        attention, modulate(block.norm1_context.norm, text, text_scale, text_shift), TEXT_STREAM
    )
    query, key, value = (
        torch.cat(both, dim=1) for both in zip(text_stream, image_stream, strict=True)
    )
    seen = _attend(attention, rotate(query, rotary), rotate(key, rotary), value, bias)
    text_seen, seen = seen.split_with_sizes([text.shape[1], tokens.shape[1]], dim=1)

    tokens = add_gated(tokens, gate, linear(attention.to_out[0], seen))
    tokens = add_gated(
        tokens,
        mlp_gate,
        feed_forward(block.ff, modulate(block.norm2, tokens, mlp_scale, mlp_shift)),
    )
    text = add_gated(text, text_gate, linear(attention.to_add_out, text_seen))
    text = add_gated(
        text,
        text_mlp_gate,
        feed_forward(
            block.ff_context,
            modulate(block.norm2_context, text, text_mlp_scale, text_mlp_shift),
        ),
    )
    return text, tokens


def single_block(
    block: Block,
    tokens: torch.Tensor,
    modulation: torch.Tensor,
    rotary: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Applies a single-stream block to all tokens, `(batch, text + image + references, dim)`.

    `modulation` is `(batch, SINGLE_ROWS, dim)`.
    """
    shift, scale, gate = modulation.unbind(1)
    normed = shared_input(block.proj_mlp, modulate(block.norm.norm, tokens, scale, shift))
    query, key, value = _projections(block.attn, normed)
    seen = _attend(block.attn, rotate(query, rotary), rotate(key, rotary), value, bias)
    return _merge(block, tokens, normed, seen, gate)


def last_block(
    block: Block,
    tokens: torch.Tensor,
    modulation: torch.Tensor,
    rotary: torch.Tensor,
    bias: torch.Tensor | None,
    start: int,
    count: int,
) -> torch.Tensor:
    """Like `single_block`, but returns only tokens `start` to `start + count`.

    The other tokens are used as keys and values; their queries, MLP and output are not computed.
    """
    shift, scale, gate = modulation.unbind(1)
    attention = block.attn
    normed = modulate(block.norm.norm, tokens, scale, shift)
    wanted = shared_input(block.proj_mlp, normed.narrow(1, start, count))
    seen_by_all = shared_input(attention.to_k, normed)
    query = rms_norm(attention.norm_q, _heads(attention, linear(attention.to_q, wanted)))
    key = rms_norm(attention.norm_k, _heads(attention, linear(attention.to_k, seen_by_all)))
    query, key = rotate(query, rotary.narrow(0, start, count)), rotate(key, rotary)
    value = _heads(attention, linear(attention.to_v, seen_by_all))
    if bias is not None:
        bias = bias.narrow(2, start, count)
    seen = _attend(attention, query, key, value, bias)
    return _merge(block, tokens.narrow(1, start, count), wanted, seen, gate)


def _merge(
    block: Block,
    tokens: torch.Tensor,
    normed: Input,
    seen: torch.Tensor,
    gate: torch.Tensor,
) -> torch.Tensor:
    widened = linear_gelu(block.proj_mlp, normed)
    return add_gated(tokens, gate, linear_joined(block.proj_out, seen, widened))


class DoubleBlock(FluxTransformerBlock):
    """`double_block` with weights; `dream_o.runtime.speed` may replace `compute`."""

    compute: Callable[..., Any] = staticmethod(double_block)

    def forward(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the arguments of `double_block` after `block`."""
        return self.compute(self, *arguments)


class SingleBlock(FluxSingleTransformerBlock):
    """`single_block` with weights; `last_block` if only a part of the tokens is needed."""

    compute: Callable[..., Any] = staticmethod(single_block)
    compute_part: Callable[..., Any] = staticmethod(last_block)

    def forward(self, *arguments: Any, part: tuple[int, int] | None = None) -> torch.Tensor:
        """Takes the arguments of `single_block` after `block`; `part` is (start, count)."""
        if part is None:
            return self.compute(self, *arguments)
        return self.compute_part(self, *arguments, *part)
