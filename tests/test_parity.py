"""The method is DreamO's: latents, pixels and token ids of the original implementation."""

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dream_o.components import token_ids
from dream_o.pipeline import DreamOPipeline
from tests.conftest import PARITY

CASES = json.loads((PARITY / "cases.json").read_text())


@pytest.fixture(scope="module")
def pipeline_of(fused):
    @functools.cache
    def load(version, turbo):
        return DreamOPipeline.from_pretrained(fused(version, turbo))

    return load


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_latents_pixels_and_tokens_are_those_of_the_original(case, pipeline_of):
    pipeline = pipeline_of(case["version"], case["use_turbo"])
    golden = np.load(PARITY / "golden" / f"{case['name']}.npz")
    references = [
        each and Image.open(PARITY / "refs" / each["image"]).convert("RGB") for each in case["refs"]
    ]

    latents = pipeline(
        case["prompt"],
        references,
        negative_prompt=case["neg_prompt"],
        height=case["height"],
        width=case["width"],
        num_inference_steps=case["num_steps"],
        guidance_scale=case["guidance"],
        first_step_guidance_scale=case["first_step_guidance"],
        true_cfg_scale=case["true_cfg"],
        negative_guidance_scale=case["neg_guidance"],
        cfg_start_step=case["cfg_start_step"],
        cfg_end_step=case["cfg_end_step"],
        generator=torch.Generator().manual_seed(case["seed"]),
        output_type="latent",
    ).images
    image = pipeline.decode(latents, case["height"], case["width"], "pil")[0]

    distance = np.linalg.norm(latents[:, ::4].numpy() - golden["latents"])
    assert distance / np.linalg.norm(golden["latents"]) <= 1e-5
    pixels = np.asarray(image)[::8, ::8].astype(int)
    assert np.mean(np.abs(pixels - golden["image_u8"]) <= 1) >= 0.999
    for name, tokenizer, length in (
        ("clip_ids", pipeline.tokenizer, 77),
        ("t5_ids", pipeline.tokenizer_2, 512),
    ):
        assert np.array_equal(token_ids(tokenizer, case["prompt"], length)[0], golden[name])
