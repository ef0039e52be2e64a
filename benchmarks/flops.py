"""Counts the floating-point operations of a denoising step's matrix products.

A multiplication and its addition count as two: linear layers need `2 * tokens * rows * columns`,
attention `4 * queries * keys * dim`. Elementwise operations (norms, activations, rotation) are not
counted.
"""

from dataclasses import dataclass

from dream_o.transformer import DreamOTransformer2DModel


@dataclass(frozen=True)
class Tokens:
    """The number of tokens of each kind in a step."""

    text: int
    image: int
    references: int = 0

    @property
    def all(self) -> int:
        """The length of the sequence."""
        return self.text + self.image + self.references


def step_flops(transformer: DreamOTransformer2DModel, tokens: Tokens) -> int:
    """The operations of a step in the speed modes.

    Results that are equal in every step are not computed again and not counted; neither are the
    last block's unused tokens.
    """
    dim, channels = transformer.inner_dim, transformer.config.in_channels
    return (
        _blocks(transformer, tokens)
        - _single_block(dim, tokens.all, tokens.all)
        + _single_block(dim, tokens.all, tokens.image)
        + 2 * tokens.image * channels * dim
        + _head(transformer, tokens.image)
    )


def plain_step_flops(transformer: DreamOTransformer2DModel, tokens: Tokens) -> int:
    """The operations of a step of `benchmarks.plain`."""
    config, dim = transformer.config, transformer.inner_dim
    shown = tokens.image + tokens.references
    return (
        _blocks(transformer, tokens)
        + 2 * shown * config.in_channels * dim
        + 2 * tokens.text * config.joint_attention_dim * dim
        + _embedders(transformer)
        + sum(2 * layer.weight.numel() for layer in transformer.modulation_layers())
        + _head(transformer, shown)
    )


def _blocks(transformer: DreamOTransformer2DModel, tokens: Tokens) -> int:
    dim, length = transformer.inner_dim, tokens.all
    # Query, key, value and output are four matrices of dim x dim; the MLP has eight.
    double = 2 * (4 + 8) * length * dim**2 + 4 * length**2 * dim
    return len(transformer.transformer_blocks) * double + len(
        transformer.single_transformer_blocks
    ) * _single_block(dim, length, length)


def _single_block(dim: int, length: int, queries: int) -> int:
    keys_and_values = 2 * 2 * length * dim**2
    # The query has one matrix of dim x dim, the MLP's first layer four, the last layer five.
    rest = 2 * (1 + 4 + 5) * queries * dim**2
    return keys_and_values + rest + 4 * queries * length * dim


def _head(transformer: DreamOTransformer2DModel, shown: int) -> int:
    return 2 * shown * transformer.inner_dim * transformer.out_channels


def _embedders(transformer: DreamOTransformer2DModel) -> int:
    embed = transformer.time_text_embed
    names = ("timestep_embedder", "guidance_embedder", "text_embedder")
    layers = [getattr(embed, name) for name in names if hasattr(embed, name)]
    return sum(
        2 * linear.weight.numel() for each in layers for linear in (each.linear_1, each.linear_2)
    )
