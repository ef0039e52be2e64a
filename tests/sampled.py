"""Sampling with the parity model: the same request, and how far two results are apart."""

import torch
from PIL import Image

from dream_o.pipeline import DreamOPipeline
from dream_o.runtime.threads import suited_threads

PICTURE = Image.linear_gradient("L").convert("RGB").resize((96, 96))
# Few, and no number of channels or of heads of the parity model: torch's compiler takes two equal
# sizes for the same one.
TEXT_TOKENS = 40


def latents_of(pipeline: DreamOPipeline, references: int = 1, **options) -> torch.Tensor:
    shape = {"height": 96, "width": 128, "max_sequence_length": TEXT_TOKENS}
    options = shape | {"num_inference_steps": 3} | options
    generator = torch.Generator().manual_seed(0)
    with suited_threads(pipeline.transformer):
        return pipeline(
            "a hill", [PICTURE] * references, generator=generator, output_type="latent", **options
        ).images


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
