"""DreamOPipeline: a prompt and reference images in, an image out."""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import PIL.Image
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import FluxLoraLoaderMixin
from diffusers.utils import BaseOutput

from dream_o.call_inputs import (
    Generators,
    Prompt,
    Prompts,
    check_callback_inputs,
    check_latents,
    check_lengths,
    count_images,
    generator_of_each,
    listed,
    negative_of_each,
)
from dream_o.components import JOINS, T5_TOKENS, DreamOComponents
from dream_o.conditioning import EncodedPrompt, EncodedReference
from dream_o.errors import InputError
from dream_o.guidance import true_cfg_steps
from dream_o.library_internals import execution_device
from dream_o.sampling import denoise, draw_noise, set_sigmas
from dream_o.sizes import MAX_REFERENCES, PATCH, TOKEN_PIXELS, check_size
from dream_o.stopwatch import Stopwatch
from dream_o.velocities import Guidance, Velocities

logger = logging.getLogger(__name__)

CallbackOnStepEnd = Callable[["DreamOPipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class DreamOPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        images: the images, in the format of `output_type`.
        seconds: wall-clock seconds spent in `prompt`, `references`, `denoising` and `decoding`.
    """

    images: Any
    seconds: dict[str, float]


Call = TypeVar("Call", bound=Callable[..., Any])


def freeing_model_hooks(call: Call) -> Call:
    """Moves every model off the GPU after the call, even if it fails (model offloading only)."""

    @functools.wraps(call)
    def freeing(self: DiffusionPipeline, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(self, *args, **kwargs)
        finally:
            self.maybe_free_model_hooks()

    return cast(Call, freeing)


class DreamOPipeline(DreamOComponents, FluxLoraLoaderMixin):
    """Generates an image from a prompt and up to nine reference images, with DreamO on FLUX.1-dev.

    Loads a weights bundle: `DreamOPipeline.from_pretrained("weights/miniature")`. Each stage of a
    call is also a method: `encode_prompt`, `encode_reference`, `decode`; the loop between them is
    `dream_o.sampling.denoise`.

    To try LoRAs before fusing them, use diffusers' `load_lora_weights`, `set_adapters` and
    `unload_lora_weights` on a bundle that is not quantised.
    """

    _callback_tensor_inputs = ("latents",)
    _interrupt = False

    @torch.no_grad()
    @freeing_model_hooks
    def __call__(
        self,
        prompt: Prompts,
        reference_images: Sequence[PIL.Image.Image | EncodedReference | None] = (),
        *,
        negative_prompt: Prompts | None = None,
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 12,
        guidance_scale: float = 3.5,
        first_step_guidance_scale: float = 0.0,
        true_cfg_scale: float = 1.0,
        negative_guidance_scale: float = 3.5,
        cfg_start_step: int = 0,
        cfg_end_step: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int = T5_TOKENS,
    ) -> DreamOPipelineOutput | tuple[Any]:
        """Generates one image, or several of the same size and with the same references.

        Several images go through each step one after the other, so that each has the bits that it
        has in a call of its own. References and distinct prompts are encoded once.

        Args:
            prompt: what to draw, or the output of `encode_prompt`, or a list of these; `[ref#1]`
                refers to the image in slot 1.
            reference_images: prepared images (`dream_o.references.prepare`), RGB, sides multiples
                of 16, or outputs of `encode_reference`. The position in the sequence, from 1, is
                the slot; None leaves a slot empty.
            negative_prompt: what to avoid, one for all prompts or a list of one for each; used
                only if true CFG is on. None is the empty prompt.
            height, width: pixels, multiples of 16.
            num_inference_steps: 12 if the bundle includes the turbo adapter, otherwise 25 or more.
            guidance_scale: the distilled guidance of FLUX.1-dev.
            first_step_guidance_scale: `guidance_scale` in the first step; 0 leaves it unchanged.
            true_cfg_scale: above 1, steps `cfg_start_step <= i < cfg_end_step` also run a
                negative pass; a `cfg_end_step` of None stands for the last step.
            negative_guidance_scale: the distilled guidance of the negative pass.
            num_images_per_prompt: the images of the first prompt come first.
            generator: draws the noise; a CPU generator gives the same noise on every device. A
                list has one for each image; a single one draws for all, image after image.
            latents: packed noise `(images, tokens, 64)` to use instead of drawing it.
            output_type: `pil`, `np`, `pt` or `latent` (packed, as `(images, tokens, 64)`).
            return_dict: False returns the tuple `(images,)`.
            callback_on_step_end: called as `f(pipeline, step, timestep, {"latents": ...})` after
                each step of all images; returns a dictionary whose `latents` replace the current
                ones.
            callback_on_step_end_tensor_inputs: `("latents",)` or `()`.
            max_sequence_length: the number of T5 tokens to which a prompt is padded or cut off, 1
                to 512, which is what DreamO was trained with.

        Raises:
            InputError: a size that is not a multiple of 16, more than nine references, or lists
                whose lengths do not fit.
        """
        check_size("width", width)
        check_size("height", height)
        if len(reference_images) > MAX_REFERENCES:
            raise InputError("reference_images", f"at most {MAX_REFERENCES} references are allowed")
        if output_type not in (*JOINS, "latent"):
            allowed = ", ".join(JOINS)
            raise InputError(
                "output_type", f"{output_type!r} is not allowed; use {allowed} or latent"
            )
        check_callback_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        prompts = listed("prompt", prompt)
        negatives = negative_of_each(negative_prompt, len(prompts))
        images = count_images(len(prompts), num_images_per_prompt)
        generators = generator_of_each(generator, images)
        grid = (height // TOKEN_PIXELS, width // TOKEN_PIXELS)
        channels = self.transformer.config.in_channels
        if latents is not None:
            check_latents(latents, images, grid[0] * grid[1], channels)
        self._interrupt = False
        device = execution_device(self)
        stopwatch = Stopwatch(device)
        if cfg_end_step is None:
            cfg_end_step = num_inference_steps
        guidance = Guidance(
            guidance_scale,
            first_step_guidance_scale,
            true_cfg_scale,
            negative_guidance_scale,
            true_cfg_steps(true_cfg_scale, cfg_start_step, cfg_end_step, num_inference_steps),
        )

        # 1. Text.
        with stopwatch.stage("prompt"):
            encoded = self._encoded(prompts, max_sequence_length)
            text_tokens = encoded[0].prompt_embeds.shape[1]
            check_lengths("prompt", encoded, text_tokens)
            unwanted = []
            if guidance.true_cfg_steps:
                unwanted = self._encoded(negatives, max_sequence_length)
                check_lengths("negative_prompt", unwanted, text_tokens)

        # 2. References.
        with stopwatch.stage("references"):
            references = {
                slot: self.encode_reference(each) if isinstance(each, PIL.Image.Image) else each
                for slot, each in enumerate(reference_images, start=1)
                if each is not None
            }

        with stopwatch.stage("denoising"):
            # 3. Noise and its schedule.
            dtype = encoded[0].prompt_embeds.dtype
            if latents is None:
                noise = (height, width, channels // PATCH**2)
                latents = torch.cat(
                    [draw_noise(*noise, each, dtype, device) for each in generators]
                )
            latents = latents.to(device=device, dtype=dtype)
            timesteps = set_sigmas(self.scheduler, num_inference_steps, latents.shape[1], device)
            # Rounded before the division, as FluxPipeline does: in bfloat16 it makes a difference.
            times = timesteps.to(dtype) / self.scheduler.config.num_train_timesteps

            # 4. The inputs that are the same in every step, computed once.
            velocities = Velocities(
                self.transformer, grid, references, text_tokens, times, guidance
            )
            velocity = velocities.of_images(encoded, unwanted, num_images_per_prompt)

            # 5. The loop.
            with self.progress_bar(total=num_inference_steps) as progress:

                def on_step_end(
                    step: int, timestep: torch.Tensor, latents: torch.Tensor
                ) -> torch.Tensor | None:
                    progress.update()
                    if callback_on_step_end is not None:
                        tensors = {"latents": latents}
                        given = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                        latents = callback_on_step_end(self, step, timestep, given).get(
                            "latents", latents
                        )
                    return None if self._interrupt else latents

                latents = denoise(velocity, self.scheduler, latents, on_step_end)

        # 6. Pixels.
        made: Any = latents
        if output_type != "latent":
            with stopwatch.stage("decoding"):
                made = self.decode(latents, height, width, output_type)
        if not return_dict:
            return (made,)
        return DreamOPipelineOutput(images=made, seconds=stopwatch.seconds)

    def _encoded(self, prompts: Sequence[Prompt], max_sequence_length: int) -> list[EncodedPrompt]:
        """Each prompt encoded, those with the same text once."""
        texts = dict.fromkeys(each for each in prompts if isinstance(each, str))
        known = {text: self.encode_prompt(text, max_sequence_length) for text in texts}
        encoded = [known[each] if isinstance(each, str) else each for each in prompts]
        for each in encoded:
            if each.excess:
                kept = each.prompt_embeds.shape[1]
                logger.warning(
                    "the prompt is too long: its last %d of %d tokens are ignored",
                    each.excess,
                    each.excess + kept,
                )
        return encoded
