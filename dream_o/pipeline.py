"""DreamOPipeline: a prompt and reference images in, an image out."""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import PIL.Image
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import FluxLoraLoaderMixin
from diffusers.utils import BaseOutput
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from dream_o.conditioning import Conditioning, EncodedPrompt, EncodedReference
from dream_o.errors import InputError
from dream_o.guidance import true_cfg_steps
from dream_o.library_internals import execution_device
from dream_o.sampling import (
    Velocity,
    denoise,
    draw_noise,
    guidance_per_step,
    pack,
    position_ids,
    set_sigmas,
    unpack,
    velocity_of,
    with_true_cfg,
)
from dream_o.sizes import TOKEN_PIXELS, check_size
from dream_o.step_reuse import reusing_steps
from dream_o.stopwatch import Stopwatch
from dream_o.transfer import to_device
from dream_o.transformer import MAX_REFERENCES, DreamOTransformer2DModel
from dream_o.weights.format.bundle import Bundle, opened, seal
from dream_o.weights.format.load import load_components

logger = logging.getLogger(__name__)

T5_TOKENS = 512

CallbackOnStepEnd = Callable[["DreamOPipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any]]


@dataclass
class DreamOPipelineOutput(BaseOutput):
    """What a call returns.

    Attributes:
        images: one image, in the format of `output_type`.
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


class DreamOPipeline(DiffusionPipeline, FluxLoraLoaderMixin):
    """Generates an image from a prompt and up to nine reference images, with DreamO on FLUX.1-dev.

    Loads a weights bundle: `DreamOPipeline.from_pretrained("weights/miniature")`. Each stage of a
    call is also a method: `encode_prompt`, `encode_reference`, `decode`; the loop between them is
    `dream_o.sampling.denoise`.

    To try LoRAs before fusing them, use diffusers' `load_lora_weights`, `set_adapters` and
    `unload_lora_weights` on a bundle that is not quantised.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        scheduler: FlowMatchEulerDiscreteScheduler,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: PreTrainedTokenizerBase,
        transformer: DreamOTransformer2DModel,
    ) -> None:
        super().__init__()
        self.register_modules(
            scheduler=scheduler,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            transformer=transformer,
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=TOKEN_PIXELS)
        self._interrupt = False
        self.bundle = Bundle("custom", turbo=False, precision="", dtype="")

    @classmethod
    def from_pretrained(
        cls, bundle: str | os.PathLike[str] | Bundle, torch_dtype: torch.dtype | None = None
    ) -> "DreamOPipeline":
        """Loads a bundle onto the CPU.

        Args:
            bundle: a folder that `dream-o weights fuse` or `save_pretrained` wrote, or a Bundle
                from `read_bundle`.
            torch_dtype: None keeps the dtype of the files.

        Raises:
            BundleError: the folder is not a bundle, or one of its files cannot be used.
        """
        bundle = opened(bundle)
        pipeline = cls(**load_components(bundle, torch_dtype))
        pipeline.bundle = bundle
        return pipeline

    def save_pretrained(self, bundle: str | os.PathLike[str]) -> None:
        """Writes a bundle that `from_pretrained` reads, in the current dtype."""
        super().save_pretrained(bundle)
        dtype = str(self.transformer.dtype).removeprefix("torch.")
        seal(Path(bundle), replace(self.bundle, precision=dtype, dtype=dtype))

    @torch.no_grad()
    @freeing_model_hooks
    def __call__(
        self,
        prompt: str | EncodedPrompt,
        reference_images: Sequence[PIL.Image.Image | EncodedReference | None] = (),
        *,
        negative_prompt: str | EncodedPrompt = "",
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 12,
        guidance_scale: float = 3.5,
        first_step_guidance_scale: float = 0.0,
        true_cfg_scale: float = 1.0,
        negative_guidance_scale: float = 3.5,
        cfg_start_step: int = 0,
        cfg_end_step: int | None = None,
        generator: torch.Generator | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> DreamOPipelineOutput:
        """Generates one image.

        Args:
            prompt: what to draw, or the output of `encode_prompt`; `[ref#1]` refers to the image
                in slot 1.
            reference_images: prepared images (`dream_o.references.prepare`), RGB, sides multiples
                of 16, or outputs of `encode_reference`. The position in the sequence, from 1, is
                the slot; None leaves a slot empty.
            negative_prompt: what to avoid; used only if true CFG is on.
            height, width: pixels, multiples of 16.
            num_inference_steps: 12 if the bundle includes the turbo adapter, otherwise 25 or more.
            guidance_scale: the distilled guidance of FLUX.1-dev.
            first_step_guidance_scale: `guidance_scale` in the first step; 0 leaves it unchanged.
            true_cfg_scale: above 1, steps `cfg_start_step <= i < cfg_end_step` also run a
                negative pass; a `cfg_end_step` of None stands for the last step.
            negative_guidance_scale: the distilled guidance of the negative pass.
            generator: draws the noise; a CPU generator gives the same noise on every device.
            latents: packed noise `(1, tokens, 64)` to use instead of drawing it.
            output_type: `pil`, `np`, `pt` or `latent` (packed, as `(1, tokens, 64)`).
            callback_on_step_end: called as `f(pipeline, step, timestep, {"latents": ...})` after
                each step; returns a dictionary whose `latents` replace the current ones.
            callback_on_step_end_tensor_inputs: `("latents",)` or `()`.

        Raises:
            InputError: a size that is not a multiple of 16, or more than nine references.
        """
        check_size("width", width)
        check_size("height", height)
        if len(reference_images) > MAX_REFERENCES:
            raise InputError("reference_images", f"at most {MAX_REFERENCES} references are allowed")
        self._interrupt = False
        device = execution_device(self)
        stopwatch = Stopwatch(device)
        if cfg_end_step is None:
            cfg_end_step = num_inference_steps
        cfg_steps = true_cfg_steps(
            true_cfg_scale, cfg_start_step, cfg_end_step, num_inference_steps
        )

        # 1. Text.
        with stopwatch.stage("prompt"):
            prompt_embeds, pooled, _ = self._encoded(prompt)
            if cfg_steps:
                negative_embeds, negative_pooled, _ = self._encoded(negative_prompt)

        # 2. References.
        with stopwatch.stage("references"):
            references = {
                slot: self.encode_reference(each) if isinstance(each, PIL.Image.Image) else each
                for slot, each in enumerate(reference_images, start=1)
                if each is not None
            }

        with stopwatch.stage("denoising"):
            # 3. Noise and its schedule.
            if latents is None:
                channels = self.transformer.config.in_channels // 4
                latents = draw_noise(
                    height, width, channels, generator, prompt_embeds.dtype, device
                )
            latents = latents.to(device=device, dtype=prompt_embeds.dtype)
            image_tokens = latents.shape[1]
            timesteps = set_sigmas(self.scheduler, num_inference_steps, image_tokens, device)
            # Rounded before the division, as FluxPipeline does: in bfloat16 it makes a difference.
            times = timesteps.to(latents.dtype) / self.scheduler.config.num_train_timesteps

            # 4. The inputs that are the same in every step, computed once.
            size = (height // TOKEN_PIXELS, width // TOKEN_PIXELS)
            sizes = [size, *(each.grid for each in references.values())]
            text_tokens = prompt_embeds.shape[1]
            rotary = self.transformer.embed_positions(
                position_ids(text_tokens, sizes, device), text_tokens, image_tokens
            )
            guidance = guidance_per_step(
                guidance_scale, first_step_guidance_scale, num_inference_steps
            )
            guidance = to_device(guidance.to(times.dtype), device)
            conditioning = Conditioning(
                text_tokens=self.transformer.embed_text(prompt_embeds),
                modulation=self._modulation(times, guidance, pooled),
                rotary=rotary,
                reference_tokens=self._reference_tokens(references),
            )
            velocity = self._velocity(conditioning, "positive", num_inference_steps)
            if cfg_steps:
                # The negative pass is plain FLUX, without references.
                negative_guidance = torch.full_like(times, negative_guidance_scale)
                negative = Conditioning(
                    text_tokens=self.transformer.embed_text(negative_embeds),
                    modulation=self._modulation(times, negative_guidance, negative_pooled),
                    rotary=rotary,
                    token_embeddings=False,
                )
                velocity = with_true_cfg(
                    velocity,
                    self._velocity(negative, "negative", num_inference_steps),
                    true_cfg_scale,
                    cfg_steps,
                )

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
        images = latents
        if output_type != "latent":
            with stopwatch.stage("decoding"):
                images = self.decode(latents, height, width, output_type)
        return DreamOPipelineOutput(images=images, seconds=stopwatch.seconds)

    def _encoded(self, prompt: str | EncodedPrompt) -> EncodedPrompt:
        encoded = self.encode_prompt(prompt) if isinstance(prompt, str) else prompt
        if encoded.excess:
            logger.warning(
                "the prompt is too long: its last %d of %d tokens are ignored",
                encoded.excess,
                encoded.excess + T5_TOKENS,
            )
        return encoded

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> EncodedPrompt:
        """Encodes a prompt with both text encoders.

        A prompt longer than T5's 512 tokens is cut off; a call that uses it logs a warning.
        """
        device = execution_device(self)
        clip_ids = token_ids(self.tokenizer, prompt, self.tokenizer.model_max_length)
        t5_ids = token_ids(self.tokenizer_2, prompt, T5_TOKENS)
        # CLIP sees 77 tokens and only gives the pooled vector, so only T5's limit is reported.
        excess = len(self.tokenizer_2(prompt, verbose=False).input_ids) - T5_TOKENS
        pooled = self.text_encoder(to_device(clip_ids, device)).pooler_output
        prompt_embeds = self.text_encoder_2(to_device(t5_ids, device))[0]
        dtype = self.transformer.dtype
        return EncodedPrompt(prompt_embeds.to(dtype), pooled.to(dtype), max(0, excess))

    @torch.no_grad()
    def encode_reference(self, image: PIL.Image.Image) -> EncodedReference:
        """The latents of a prepared image.

        They are the mode of the VAE's posterior, so the same image always gives the same latents.

        Raises:
            InputError: a side that is not a multiple of 16.
        """
        check_size("reference width", image.width)
        check_size("reference height", image.height)
        config = self.vae.config
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        # Scaled in float32 and rounded once, as the original does: in bfloat16 half of the 256
        # levels would be others.
        pixels = to_device(pixels, execution_device(self)).float() / 127.5 - 1
        mode = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode()
        latents = pack((mode - config.shift_factor) * config.scaling_factor)
        grid = (image.height // TOKEN_PIXELS, image.width // TOKEN_PIXELS)
        return EncodedReference(grid, latents.to(self.transformer.dtype))

    def _modulation(
        self, times: torch.Tensor, guidance: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        return self.transformer.modulation(self.transformer.embed_time(times, guidance, pooled))

    def _velocity(self, conditioning: Conditioning, kind: str, steps: int) -> Velocity:
        velocity = velocity_of(self.transformer, conditioning)
        return reusing_steps(self.transformer, velocity, kind, steps)

    def _reference_tokens(self, references: dict[int, EncodedReference]) -> torch.Tensor | None:
        tokens = [
            self.transformer.embed_reference(each.latents, slot)
            for slot, each in references.items()
        ]
        return torch.cat(tokens, dim=1) if tokens else None

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, height: int, width: int, output_type: str) -> Any:
        """Decodes packed latents `(1, tokens, 64)` into images of `height` x `width` pixels."""
        config = self.vae.config
        unpacked = unpack(latents, height, width).to(self.vae.dtype)
        pixels = self.vae.decode(unpacked / config.scaling_factor + config.shift_factor).sample
        if output_type != "pil":
            return self.image_processor.postprocess(pixels, output_type=output_type)
        # Round on the device, so that a quarter of the bytes are copied to the CPU.
        levels = (pixels * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
        return [PIL.Image.fromarray(each) for each in levels.permute(0, 2, 3, 1).cpu().numpy()]


def token_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> torch.Tensor:
    """Token ids `(1, length)` int64, cut off or padded."""
    return tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
