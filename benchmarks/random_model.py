"""A transformer like FLUX.1's with random weights, and random inputs for denoising."""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler

from benchmarks.flops import Tokens
from dream_o.components import T5_TOKENS
from dream_o.conditioning import EncodedPrompt, EncodedReference
from dream_o.pipeline import DreamOPipeline
from dream_o.sampling import draw_noise
from dream_o.sizes import TOKEN_PIXELS
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.build.quantize import kinds
from dream_o.weights.format.quantized import is_quantized

REFERENCE_SIDE = 512


@dataclass(frozen=True)
class Inputs:
    """The inputs of both loops."""

    size: int
    noise: torch.Tensor
    prompt: EncodedPrompt
    references: tuple[EncodedReference, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """The image's rows and columns in tokens."""
        return (self.size // TOKEN_PIXELS,) * 2

    @property
    def tokens(self) -> Tokens:
        """The numbers of tokens."""
        of_references = sum(each.latents.shape[1] for each in self.references)
        return Tokens(self.prompt.prompt_embeds.shape[1], self.noise.shape[1], of_references)


def random_pipeline(
    heads: int, blocks: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> DreamOPipeline:
    """A pipeline that can only denoise, from encoded inputs to latents."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that the full size never exists in float32
    torch.manual_seed(0)
    try:
        with torch.device(device):
            transformer = DreamOTransformer2DModel(
                num_layers=blocks[0], num_single_layers=blocks[1], num_attention_heads=heads
            )
            vae = AutoencoderKL()
    finally:
        torch.set_default_dtype(before)
    pipeline = DreamOPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer.eval(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def quantized_pipeline(pipeline: DreamOPipeline, kind: str) -> DreamOPipeline:
    """A copy with linear layers quantized as in a bundle of a kind; it shares the other weights."""
    source, quantize = pipeline.transformer, kinds()[kind].quantize
    with torch.device("meta"):
        transformer = DreamOTransformer2DModel.from_config(source.config)
    for name, empty in list(transformer.named_parameters()):
        parameter = source.get_parameter(name)
        if is_quantized("transformer", name, empty.ndim):
            weight = quantize(parameter.detach().float(), parameter.dtype)
            parameter = torch.nn.Parameter(weight, requires_grad=False)
        module, _, leaf = name.rpartition(".")
        setattr(transformer.get_submodule(module), leaf, parameter)
    copy = DreamOPipeline(**(pipeline.components | {"transformer": transformer.eval()}))
    copy.set_progress_bar_config(disable=True)
    return copy


def random_inputs(pipeline: DreamOPipeline, size: int, references: int) -> Inputs:
    """Random noise, prompt embeddings and references of these sizes."""
    transformer = pipeline.transformer
    config, device, dtype = transformer.config, transformer.device, transformer.dtype
    generator = torch.Generator().manual_seed(references)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

    side = REFERENCE_SIDE // TOKEN_PIXELS
    return Inputs(
        size=size,
        noise=draw_noise(size, size, config.in_channels // 4, generator, dtype, device),
        prompt=EncodedPrompt(
            normal(1, T5_TOKENS, config.joint_attention_dim),
            normal(1, config.pooled_projection_dim),
        ),
        references=tuple(
            EncodedReference((side, side), normal(1, side**2, config.in_channels))
            for _ in range(references)
        ),
    )
