"""The FLUX transformer with reference tokens.

Everything that does not depend on the denoising step is computed by the `embed_*` methods, once a
request; `forward` does what is left to do in each step.
"""

import torch
from diffusers import FluxTransformer2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from dream_o.blocks import DoubleBlock, SingleBlock
from dream_o.conditioning import Rotary
from dream_o.library_internals import ContextParallelInput, ContextParallelOutput

# Rows of the embedding tables that DreamO adds to FLUX (arXiv 2504.16915; `dreamo.safetensors`).
TASK_ROWS = 2
REFERENCE_TASK, IMAGE_TASK = 0, 1
INDEX_ROWS = 10
MAX_REFERENCES = INDEX_ROWS - 1

# FLUX was trained on times and guidance scales multiplied by this.
EMBEDDING_SCALE = 1000.0


class DreamOTransformer2DModel(FluxTransformer2DModel):
    """FLUX.1's transformer plus DreamO's two embedding tables.

    `task_embedding` (2, dim) tells reference tokens from image tokens, `idx_embedding` (10, dim)
    one reference slot from another. The arguments are those of diffusers' FluxTransformer2DModel.
    """

    # How several devices share a call (`dream_o.runtime.parallel`): each computes its part of the
    # text, of the image and of the references. A token's rotary angles go with it, so the order of
    # tokens does not matter to attention.
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
        # The parent has made no blocks: these are ours.
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
        """T5 states `(batch, text, joint_attention_dim)` to text tokens `(batch, text, dim)`."""
        return self.context_embedder(prompt_embeds)

    @apply_forward_hook
    def embed_reference(self, latents: torch.Tensor, slot: int) -> torch.Tensor:
        """A reference's packed latents `(batch, tokens, 64)` to tokens `(batch, tokens, dim)`.

        `slot` is 1 to 9. References are clean in every step, so their tokens never change.
        """
        tokens = self.x_embedder(latents)
        return tokens + self.task_embedding.weight[REFERENCE_TASK] + self.idx_embedding.weight[slot]

    @apply_forward_hook
    def embed_time(
        self, times: torch.Tensor, guidance: torch.Tensor, pooled_prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        """The modulation vectors of all steps, `(steps, dim)`.

        Args:
            times: `(steps,)`, noise levels from 1 down to 0.
            guidance: `(steps,)`, the guidance scale of each step; unused by a model without it.
            pooled_prompt_embeds: `(1, pooled_projection_dim)`.
        """
        times = times * EMBEDDING_SCALE
        pooled = pooled_prompt_embeds.expand(len(times), -1)
        if not self.config.guidance_embeds:
            return self.time_text_embed(times, pooled)
        return self.time_text_embed(times, guidance * EMBEDDING_SCALE, pooled)

    @apply_forward_hook
    def embed_positions(
        self, position_ids: torch.Tensor, text_tokens: int, image_tokens: int
    ) -> Rotary:
        """The rotary tables of ids `(tokens, 3)` of text, image and references, in that order."""
        cosines, sines = self.pos_embed(position_ids)
        # The parent's tables have each angle twice, once for each channel of its pair.
        tables = torch.stack([cosines[:, ::2], sines[:, ::2]], dim=-1)
        rest = len(position_ids) - text_tokens - image_tokens
        text, image, references = tables.split([text_tokens, image_tokens, rest])
        return text, image, references

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary: Rotary,
        reference_tokens: torch.Tensor | None = None,
        token_embeddings: bool = True,
        attention_bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The velocity of the image tokens in one step.

        Args:
            hidden_states: noisy packed latents `(batch, image, 64)`.
            encoder_hidden_states: text tokens `(batch, text, dim)` from `embed_text`.
            temb: `(batch, dim)`, the step's row of `embed_time`.
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
        # Without reference tokens there are no places for them.
        table = torch.cat(rotary if reference_tokens is not None else rotary[:2])

        text = encoder_hidden_states
        for block in self.transformer_blocks:
            text, tokens = block(text, tokens, temb, table, attention_bias)
        tokens = torch.cat([text, tokens], dim=1)
        part = (text_tokens, image_tokens)
        *singles, last = self.single_transformer_blocks
        for block in singles:
            tokens = block(tokens, temb, table, attention_bias)
        image = last(tokens, temb, table, attention_bias, part=part)
        return self.proj_out(self.norm_out(image, temb))
