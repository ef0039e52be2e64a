"""The FLUX transformer with reference tokens.

The `embed_*` methods compute everything that does not depend on the denoising step, once per
request; `forward` computes the rest in each step.
"""

from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from dream_o.blocks import DOUBLE_ROWS, SINGLE_ROWS, DoubleBlock, SingleBlock
from dream_o.conditioning import Rotary
from dream_o.library_internals import ContextParallelInput, ContextParallelOutput
from dream_o.sizes import MAX_REFERENCES

# Rows of the embedding tables that DreamO adds to FLUX (arXiv 2504.16915; `dreamo.safetensors`).
TASK_ROWS = 2
REFERENCE_TASK, IMAGE_TASK = 0, 1
INDEX_ROWS = MAX_REFERENCES + 1

# FLUX was trained on times and guidance scales multiplied by this.
EMBEDDING_SCALE = 1000.0

# The normalisation after the last block has a scale and a shift.
FINAL_ROWS = 2


class DreamOTransformer2DModel(FluxTransformer2DModel):
    """FLUX.1's transformer plus DreamO's two embedding tables.

    `task_embedding` (2, dim) tells reference tokens from image tokens, `idx_embedding` (10, dim)
    one reference slot from another. The arguments are those of diffusers' FluxTransformer2DModel.
    """

    # How several devices share a call (`dream_o.runtime.parallel`): each computes a part of the
    # text, image and reference tokens. Each token keeps its rotary angles, so the order of tokens
    # does not change attention.
    _cp_plan = {  # noqa: RUF012
        "": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
            "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
            "rotary": (ContextParallelInput(split_dim=0, expected_dims=3),) * 3,
            "reference_tokens": ContextParallelInput(split_dim=1, expected_dims=3),
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        out_channels: int | None = None,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        guidance_embeds: bool = True,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=0,
            num_single_layers=0,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            pooled_projection_dim=pooled_projection_dim,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=axes_dims_rope,
        )
        # The parent class created no blocks; these are DreamO's own.
        self.register_to_config(num_layers=num_layers, num_single_layers=num_single_layers)
        shape = (self.inner_dim, num_attention_heads, attention_head_dim)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(*shape) for _ in range(num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(*shape) for _ in range(num_single_layers)
        )
        self.task_embedding = nn.Embedding(TASK_ROWS, self.inner_dim)
        self.idx_embedding = nn.Embedding(INDEX_ROWS, self.inner_dim)

    @apply_forward_hook
    def embed_text(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Projects T5's `(batch, text, joint_attention_dim)` to tokens `(batch, text, dim)`."""
        # A linear layer returns a view, which the first block alone would get: torch's compiler
        # checks a view's base, and would compile the double-stream block a second time.
        return self.context_embedder(prompt_embeds).clone()

    @apply_forward_hook
    def embed_reference(self, latents: torch.Tensor, slot: int) -> torch.Tensor:
        """Embeds a reference's packed latents `(batch, tokens, 64)` as `(batch, tokens, dim)`.

        `slot` is 1 to 9. References carry no noise, so their tokens are the same in every step.
        """
        tokens = self.x_embedder(latents)
        return tokens + self.task_embedding.weight[REFERENCE_TASK] + self.idx_embedding.weight[slot]

    @apply_forward_hook
    def embed_time(
        self, times: torch.Tensor, guidance: torch.Tensor, pooled_prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        """The time embeddings of all steps, `(steps, dim)`, the input of `modulation`.

        Args:
            times: `(steps,)`, noise levels from 1 down to 0.
            guidance: `(steps,)`, the guidance scale of each step; ignored by a model without
                guidance embeddings.
            pooled_prompt_embeds: `(1, pooled_projection_dim)`.
        """
        times = times * EMBEDDING_SCALE
        pooled = pooled_prompt_embeds.expand(len(times), -1)
        if not self.config.guidance_embeds:
            return self.time_text_embed(times, pooled)
        return self.time_text_embed(times, guidance * EMBEDDING_SCALE, pooled)

    def modulation_layers(self) -> list[nn.Module]:
        """The linear layers that `modulation` calls, in that order.

        They hold more than a quarter of the parameters (3.23 of FLUX.1-dev's 11.9 billion).
        `forward` calls none of them.
        """
        # mypy does not know the types of the modules inside a block.
        doubles: Any = self.transformer_blocks
        singles: Any = self.single_transformer_blocks
        layers: list[nn.Module] = []
        for block in doubles:
            layers += [block.norm1_context.linear, block.norm1.linear]
        layers += [block.norm.linear for block in singles]
        return [*layers, self.norm_out.linear]

    @apply_forward_hook
    def modulation(self, temb: torch.Tensor) -> torch.Tensor:
        """The shifts, scales and gates of every block, `(steps, rows, dim)`.

        The blocks' rows come first, in order, then those of the last normalisation. FLUX.1-dev
        has 344 rows, so 12 steps take 25 MB in bfloat16.

        Args:
            temb: `(steps, dim)`, from `embed_time`.
        """
        activated = nn.functional.silu(temb)
        products = [_product(layer, activated) for layer in self.modulation_layers()]
        return torch.cat(products, dim=1).unflatten(1, (-1, self.inner_dim))

    @apply_forward_hook
    def embed_positions(
        self, position_ids: torch.Tensor, text_tokens: int, image_tokens: int
    ) -> Rotary:
        """The rotary tables of text, image and references, the order of `position_ids`."""
        cosines, sines = self.pos_embed(position_ids)
        # diffusers' tables hold each angle twice, once for each channel of a pair.
        tables = torch.stack([cosines[:, ::2], sines[:, ::2]], dim=-1)
        rest = len(position_ids) - text_tokens - image_tokens
        text, image, references = tables.split([text_tokens, image_tokens, rest])
        return text, image, references

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        modulation: torch.Tensor,
        rotary: Rotary,
        reference_tokens: torch.Tensor | None = None,
        token_embeddings: bool = True,
        attention_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The velocity of the image tokens in one step.

        Args:
            hidden_states: noisy packed latents `(batch, image, 64)`.
            encoder_hidden_states: text tokens `(batch, text, dim)` from `embed_text`.
            modulation: `(batch, rows, dim)`, the step's rows of `modulation`.
            rotary: from `embed_positions`.
            reference_tokens: `(batch, references, dim)` from `embed_reference`, or None.
            token_embeddings: False runs plain FLUX, as the unconditional pass of true CFG does.
            attention_bias: added to attention's logits, `(batch, 1, tokens, tokens)`.

        Returns:
            `(batch, image, 64)`, in the dtype of `hidden_states`.
        """
        text_tokens, image_tokens = encoder_hidden_states.shape[1], hidden_states.shape[1]
        tokens = self.x_embedder(hidden_states)
        if token_embeddings:
            tokens = tokens + self.task_embedding.weight[IMAGE_TASK]
        if reference_tokens is not None:
            tokens = torch.cat([tokens, reference_tokens], dim=1)
        # Without reference tokens, leave out their positions.
        table = torch.cat(rotary if reference_tokens is not None else rotary[:2])

        doubles, singles = self.transformer_blocks, self.single_transformer_blocks
        counts = [DOUBLE_ROWS] * len(doubles) + [SINGLE_ROWS] * len(singles) + [FINAL_ROWS]
        *of_blocks, of_end = modulation.split(counts, dim=1)
        of_doubles, of_singles = of_blocks[: len(doubles)], of_blocks[len(doubles) :]

        text = encoder_hidden_states
        for block, rows in zip(doubles, of_doubles, strict=True):
            text, tokens = block(text, tokens, rows, table, attention_bias)
        tokens = torch.cat([text, tokens], dim=1)
        part = (text_tokens, image_tokens)
        *all_but_last, last = singles
        for block, rows in zip(all_but_last, of_singles, strict=False):
            tokens = block(tokens, rows, table, attention_bias)
        image = last(tokens, of_singles[-1], table, attention_bias, part=part)
        scale, shift = of_end.unbind(1)
        # The same operations as in diffusers' AdaLayerNormContinuous, so that rounding is the same.
        image = self.norm_out.norm(image) * (1 + scale)[:, None] + shift[:, None]
        return self.proj_out(image)


def _product(layer: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    if rows.device.type == "cpu" and not torch.is_grad_enabled():
        # A CPU rounds the product of several rows differently from that of one row. Computed one
        # row at a time, a step's modulation does not depend on the number of steps.
        return torch.cat([layer(row) for row in rows.split(1)])
    return layer(rows)
