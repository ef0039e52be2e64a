"""Generates an image with a loaded checkpoint, in one pass or in two for twice the size."""

import logging
from typing import Any

import PIL.Image
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)

from dream_o.dream_render.request import HIRES_SCALE
from dream_o.dream_render.windows import encode_prompts
from dream_o.service.steps import OnStep, step_end

logger = logging.getLogger(__name__)

# The share of the steps that the second pass repeats (the web UI's default).
HIRES_STRENGTH = 0.7


def dpmpp_2m_karras(config: Any) -> DPMSolverMultistepScheduler:
    """DPM++ 2M (arXiv:2211.01095) with the noise levels of Karras et al. (arXiv:2206.00364).

    `config` is that of the checkpoint's own scheduler.
    """
    return DPMSolverMultistepScheduler.from_config(
        config, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True
    )


def all_steps(steps: int, hires: bool) -> int:
    """The steps of all passes; the second pass repeats HIRES_STRENGTH of them."""
    return steps + (int(_second_steps(steps) * HIRES_STRENGTH) if hires else 0)


def _second_steps(steps: int) -> int:
    # With a single step, HIRES_STRENGTH would leave no step for the second pass.
    return max(steps, 2)


def paint(
    pipeline: Any,
    prompt: str,
    negative_prompt: str,
    *,
    width: int,
    height: int,
    steps: int,
    cfg_scale: float,
    seed: int,
    hires: bool,
    on_step: OnStep | None = None,
) -> PIL.Image.Image:
    """Generates an image from final prompts.

    Args:
        pipeline: a StableDiffusionPipeline or StableDiffusionXLPipeline.
        prompt: what the image should show.
        negative_prompt: what the image should not show.
        width: pixels, a multiple of 8.
        height: pixels, a multiple of 8.
        steps: denoising steps of the first pass.
        cfg_scale: the scale of classifier-free guidance; at 1 the negative prompt is ignored.
        seed: the seed of the noise, which is drawn on the CPU and so is the same on every device.
        hires: enlarge the latents HIRES_SCALE times and denoise them in a second pass.
        on_step: called after each step of both passes with the latents
            `(1, channels, height / 8, width / 8)`.

    Returns:
        `RGB`, `width` x `height`, or HIRES_SCALE times that.
    """
    words = encode_prompts(pipeline, prompt, negative_prompt)
    output = pipeline(
        **words,
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=cfg_scale,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=step_end(on_step),
        output_type="latent" if hires else "pil",
    )
    if not hires:
        return output.images[0]
    latents = torch.nn.functional.interpolate(
        output.images.float(), scale_factor=HIRES_SCALE, mode="bilinear"
    ).to(output.images.dtype)
    sdxl = isinstance(pipeline, StableDiffusionXLPipeline)
    second = (StableDiffusionXLImg2ImgPipeline if sdxl else StableDiffusionImg2ImgPipeline)(
        **pipeline.components, **({} if sdxl else {"requires_safety_checker": False})
    )
    return second(
        **words,
        image=latents,
        strength=HIRES_STRENGTH,
        num_inference_steps=_second_steps(steps),
        guidance_scale=cfg_scale,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=step_end(on_step),
    ).images[0]
