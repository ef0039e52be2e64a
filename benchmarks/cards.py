"""`python -m benchmarks.cards` writes the table of cards, docs/cards.md.

The figures are computed from FLUX.1-dev's models, created without memory for their tensors.
"""

from pathlib import Path

import torch

from benchmarks import ROOT
from dream_o.atomic import atomic_write
from dream_o.runtime.cards import ASSUMED, OnCard, cards
from dream_o.runtime.memory_needs import Sizes, bytes_as, sizes_of, working_bytes
from dream_o.weights.format.layout import KINDS

PAGE = ROOT / "docs" / "cards.md"
# The rows that are added to T5's embedding, and the length of its tokenizer.
T5_ROWS = 32100 + 10


def full_size_models() -> dict[str, torch.nn.Module]:
    """FLUX.1-dev's models with DreamO's tables, without memory for their tensors."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    from dream_o.transformer import DreamOTransformer2DModel

    with torch.device("meta"):
        return {
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                )
            ),
            "text_encoder_2": T5EncoderModel(
                T5Config(
                    vocab_size=T5_ROWS,
                    d_model=4096,
                    d_ff=10240,
                    d_kv=64,
                    num_heads=64,
                    num_layers=24,
                    feed_forward_proj="gated-gelu",
                )
            ),
            "transformer": DreamOTransformer2DModel(),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=16,
                use_quant_conv=False,
                use_post_quant_conv=False,
                sample_size=1024,
            ),
        }


def full_size() -> dict[str, Sizes]:
    """The sizes of the full-size bundle by precision, in bfloat16 and quantized."""
    models = full_size_models()
    shapes = {
        component: {name: tuple(each.shape) for name, each in model.named_parameters()}
        for component, model in models.items()
    }
    dtype = torch.bfloat16
    working = working_bytes(
        models["transformer"].inner_dim, models["vae"].config.block_out_channels, dtype
    )
    return {kind: sizes_of(bytes_as(kind, shapes, dtype), working) for kind in ("bfloat16", *KINDS)}


def page() -> str:
    """The text of docs/cards.md."""
    lines = [
        "# Which card runs what",
        "",
        "What `DREAM_O_OFFLOAD=auto` chooses for the full-size bundle in each precision. The code",
        "that chooses at setup computed every cell from the shapes of FLUX.1-dev's tensors.",
        "[Weights](weights.md#gpu-memory) explains the plans.",
        "",
        "A card of 8 GB has 8 x 2^30 bytes, as its makers count. The other columns are in 10^9",
        "bytes, so 8.1 GB fit on it.",
        "",
        "These rates are assumed, not measured on a GPU:",
        f"{ASSUMED}.",
        "A step takes the longer of computing and copying, because blocks are copied while others",
        "compute. On a faster GPU, compare the column *copying* with that GPU's seconds a step.",
        "",
        "`dream-o weights info BUNDLE` prints the table of one bundle.",
        "`.venv/bin/python -m benchmarks.cards` writes this page.",
        "",
        "| card | precision | plan | GPU memory | moved once a request | moved a step | copying "
        "| seconds a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_row, cards(full_size())),
    ]
    return "\n".join(lines) + "\n"


def _row(each: OnCard) -> str:
    cells = [f"{each.gigabytes} GB", each.precision, each.plan]
    if each.placement is not None:
        cells += [f"{size / 1e9:.1f} GB" for size in (each.resident, each.once, each.moved)]
        cells += [f"{each.copying:.2f} s", f"{each.seconds:.2f}"]
    else:
        cells += [""] * 5
    return f"| {' | '.join(cells)} |"


def write(path: Path = PAGE) -> None:
    """Writes the page."""
    with atomic_write(path) as file:
        file.write(page().encode())


if __name__ == "__main__":
    write()
