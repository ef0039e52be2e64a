"""Sampling with the parity model: the same request, and how far two results are apart."""

import torch
from PIL import Image

from dream_o.pipeline import DreamOPipeline
from dream_o.runtime.threads import suited_threads

PICTURE = Image.linear_gradient("L").convert("RGB")  # 256 x 256


def latents_of(pipeline: DreamOPipeline, references: int = 1, **options) -> torch.Tensor:
    options = {"height": 96, "width": 128, "num_inference_steps": 3} | options
    generator = torch.Generator().manual_seed(0)
    with suited_threads(pipeline.transformer):
        return pipeline(
            "a hill", [PICTURE] * references, generator=generator, output_type="latent", **options
        ).images


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())
