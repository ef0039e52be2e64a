"""The models of a pipeline: loading and saving them, encoding prompts and images, decoding."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import PIL.Image
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from transformers import CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from dream_o.conditioning import EncodedPrompt, EncodedReference
from dream_o.errors import InputError
from dream_o.library_internals import execution_device
from dream_o.sampling import pack, unpack
from dream_o.sizes import TOKEN_PIXELS, check_size
from dream_o.transfer import to_device
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.format.bundle import Bundle, opened, seal
from dream_o.weights.format.load import load_components

T5_TOKENS = 512
# How the images of a call are joined, by `output_type`.
JOINS: Mapping[str, Callable[[list[Any]], Any]] = {
    "pil": list,
    "np": np.concatenate,
    "pt": torch.cat,
}


class DreamOComponents(DiffusionPipeline):
    """The models of a bundle, and what each does with one input.

    DreamOPipeline calls `encode_prompt`, `encode_reference` and `decode` before and after its loop.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->transformer->vae"

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
        self.bundle = Bundle("custom", turbo=False, precision="", dtype="")

    @classmethod
    def from_pretrained(
        cls, bundle: str | os.PathLike[str] | Bundle, torch_dtype: torch.dtype | None = None
    ) -> Self:
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
    def encode_prompt(self, prompt: str, max_sequence_length: int = T5_TOKENS) -> EncodedPrompt:
        """Encodes a prompt with both text encoders.

        Args:
            prompt: a longer one is cut off, and a call that uses it logs a warning.
            max_sequence_length: the number of T5 tokens, 1 to 512.

        Raises:
            InputError: a `max_sequence_length` outside that range.
        """
        if not 1 <= max_sequence_length <= T5_TOKENS:
            raise InputError(
                "max_sequence_length",
                f"{max_sequence_length} is out of range; use 1 to {T5_TOKENS}",
            )
        device = execution_device(self)
        clip_ids = token_ids(self.tokenizer, prompt, self.tokenizer.model_max_length)
        t5_ids = token_ids(self.tokenizer_2, prompt, max_sequence_length)
        # CLIP sees 77 tokens and only gives the pooled vector, so only T5's limit is reported.
        excess = len(self.tokenizer_2(prompt, verbose=False).input_ids) - max_sequence_length
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

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, height: int, width: int, output_type: str) -> Any:
        """Decodes packed latents `(images, tokens, 64)` into images of `height` x `width` pixels.

        One image after the other, so that several take no more memory than one.

        Returns:
            A list of images for `pil`, otherwise an array or tensor of all images.
        """
        decoded = [self._decode_one(each, height, width, output_type) for each in latents.split(1)]
        return JOINS[output_type](decoded)

    def _decode_one(self, latents: torch.Tensor, height: int, width: int, output_type: str) -> Any:
        config = self.vae.config
        unpacked = unpack(latents, height, width).to(self.vae.dtype)
        pixels = self.vae.decode(unpacked / config.scaling_factor + config.shift_factor).sample
        if output_type != "pil":
            return self.image_processor.postprocess(pixels, output_type=output_type)
        # Round on the device, so that a quarter of the bytes are copied to the CPU.
        levels = (pixels * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
        return PIL.Image.fromarray(levels[0].permute(1, 2, 0).cpu().numpy())


def token_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, length: int) -> torch.Tensor:
    """Token ids `(1, length)` int64, cut off or padded."""
    return tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
