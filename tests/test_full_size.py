"""FLUX.1-dev's size without its weights: what a GPU would compute, keep and wait for.

Tensors are on torch's `meta` device: shapes and dtypes without data. An operation that mixes
devices or needs a value (on a GPU: waits for it) raises there.
"""

import collections
import functools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from dream_o import pipeline as pipelines
from dream_o import quantized_linear
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime import layers
from dream_o.runtime.memory_needs import working_bytes
from dream_o.runtime.speed import prepare_blocks
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.build.quantize import kinds
from dream_o.weights.format.quantized import is_quantized

META = torch.device("meta")
BF16 = torch.bfloat16

# FLUX.1-dev has 19 and 38 blocks; which dtypes they compute in, a few show. The last block is of
# the second kind, and computes in its own way.
ALL_BLOCKS, FEW_BLOCKS = (19, 38), (1, 2)

# A bundle's precision and DREAM_O_SPEED to the operators of the loop's products and the dtype of
# what they give. The sums of int8 are exact.
PRODUCTS = {
    ("bfloat16", "exact"): {"addmm": BF16},
    ("bfloat16", "compiled"): {"addmm": BF16},
    ("int8", "exact"): {"addmm": BF16, "mm": BF16},
    ("int8", "compiled"): {"addmm": BF16},
    ("int8", "fast"): {"addmm": BF16, "_int_mm": torch.int32},
    ("fp8", "exact"): {"addmm": BF16, "mm": BF16, "bmm": BF16},
    ("fp8", "compiled"): {"addmm": BF16},
    ("fp8", "fast"): {"addmm": BF16, "_scaled_mm": BF16},
}


@dataclass
class Loop(TorchDispatchMode):
    """What the operations inside the body compute, copy and hold."""

    products: dict[str, set[torch.dtype]] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)
    dtypes: collections.Counter[torch.dtype] = field(default_factory=collections.Counter)
    live: dict[int, int] = field(default_factory=dict)
    held: int = 0
    peak: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        if name.endswith("mm"):
            self.products.setdefault(name, set()).update(each.dtype for each in made)
        if any(each.device.type == "cpu" for each in given) and any(
            each.device == META for each in made
        ):
            self.copies.append(name)
        self.dtypes.update(each.dtype for each in made)
        for each in made:
            self._hold(each)
        return result

    def _hold(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.device != META or key in self.live:
            return
        self.live[key] = storage.nbytes()
        self.held += storage.nbytes()
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.held -= self.live.pop(key, 0)

    def ignore(self, *models: torch.nn.Module) -> list[Any]:
        """Weights are no activations; keep what is returned while the loop runs."""
        storages = [
            getattr(each, part).untyped_storage()
            for model in models
            for each in (*model.parameters(), *model.buffers())
            for part in (getattr(each, "tensor_data_names", None) or ("data",))
        ]
        self.live |= {storage._cdata: 0 for storage in storages}
        return storages


class Numbers(TorchFunctionMode):
    """Notes tensors made on the device from Python numbers, which dispatch does not show."""

    def __init__(self, copies: list[str]) -> None:
        super().__init__()
        self.copies = copies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and result.device == META:
            self.copies.append(func.__name__)
        return result


def flash_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> torch.Tensor:
    """The operator that a GPU takes; `meta` would take one that holds every pair of tokens."""
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


@functools.cache
def other_models() -> dict[str, Any]:
    """FLUX.1-dev's models but for the transformer, with DreamO's tokens in T5.

    The text encoders have two layers: they are done before the loop.
    """
    clip = CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=2,
        num_attention_heads=12,
        projection_dim=768,
        vocab_size=49408,
        eos_token_id=2,
    )
    t5 = T5Config(
        d_model=4096,
        d_ff=10240,
        d_kv=64,
        num_heads=64,
        num_layers=2,
        vocab_size=32110,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    with META:
        models = {
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=16,
                sample_size=1024,
                scaling_factor=0.3611,
                shift_factor=0.1159,
                use_quant_conv=False,
                use_post_quant_conv=False,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            "text_encoder": CLIPTextModel(clip),
            "text_encoder_2": T5EncoderModel(t5),
        }
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {
        "scheduler": scheduler,
        "tokenizer": CLIPTokenizer.from_pretrained(EMBEDDED_BUNDLE / "tokenizer"),
        "tokenizer_2": PreTrainedTokenizerFast.from_pretrained(EMBEDDED_BUNDLE / "tokenizer_2"),
        **{name: model.to(BF16).eval() for name, model in models.items()},
    }


def full_size_pipeline(precision: str, speed: str, blocks: tuple[int, int]) -> DreamOPipeline:
    with META:
        transformer = DreamOTransformer2DModel(num_layers=blocks[0], num_single_layers=blocks[1])
    transformer = transformer.to(BF16).eval()
    if precision in kinds():
        quantize = functools.cache(
            lambda shape: kinds()[precision].quantize(torch.empty(shape, device=META), BF16)
        )
        for name, parameter in list(transformer.named_parameters()):
            if is_quantized("transformer", name, parameter.ndim):
                module, _, leaf = name.rpartition(".")
                weight = torch.nn.Parameter(quantize(parameter.shape), requires_grad=False)
                setattr(transformer.get_submodule(module), leaf, weight)
    prepare_blocks(transformer, speed, "none", META)
    pipeline = DreamOPipeline(transformer=transformer, **other_models())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def all_blocks() -> DreamOPipeline:
    return full_size_pipeline("bfloat16", "exact", ALL_BLOCKS)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", flash_attention)
    monkeypatch.setattr(layers, "has_int8", lambda device: True)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """Sees what happens in the denoising loop, and only there."""
    loop, denoise = Loop(), pipelines.denoise

    def watching(velocity: Any, scheduler: Any, latents: Any, on_step_end: Any) -> torch.Tensor:
        with loop, Numbers(loop.copies):
            return denoise(velocity, scheduler, latents, on_step_end)

    monkeypatch.setattr(pipelines, "denoise", watching)
    return loop


def latents_of(pipeline: DreamOPipeline, count: int, **options: Any) -> torch.Tensor:
    image = PIL.Image.new("RGB", (512, 512))
    references = [image] * count
    return pipeline("a toy [ref#1]", references, output_type="latent", **options).images


@pytest.mark.parametrize(("precision", "speed"), PRODUCTS)
def test_the_loop_computes_in_the_dtypes_of_the_table(on_a_gpu, watched, precision, speed):
    pipeline = full_size_pipeline(precision, speed, FEW_BLOCKS)
    window = {"cfg_start_step": 1, "cfg_end_step": 2, "negative_prompt": "bad"}
    latents = latents_of(pipeline, 1, num_inference_steps=2, true_cfg_scale=2.0, **window)
    assert (latents.shape, latents.dtype, latents.device) == ((1, 4096, 64), BF16, META)
    expected = {name: {dtype} for name, dtype in PRODUCTS[precision, speed].items()}
    assert watched.products == expected
    assert torch.float64 not in watched.dtypes
    assert watched.copies == []


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_layers_with_the_same_input_round_it_to_eight_bits_once(on_a_gpu, monkeypatch, precision):
    rounded, in_eight_bits = [], quantized_linear.in_eight_bits
    monkeypatch.setattr(
        quantized_linear,
        "in_eight_bits",
        lambda tokens, dtype: rounded.append(tokens.shape) or in_eight_bits(tokens, dtype),
    )
    doubles, singles = FEW_BLOCKS
    pipeline = full_size_pipeline(precision, "fast", FEW_BLOCKS)
    latents_of(pipeline, 1, num_inference_steps=1)
    # A double-stream block has four inputs for the text and four for the image: of the attention,
    # of its output projection, and of the two MLP layers. A single-stream block has two: of
    # attention and MLP together, and of the output. In the last block, queries and keys have other
    # tokens.
    assert len(rounded) == 8 * doubles + 2 * (singles - 1) + 3


@pytest.mark.parametrize("references", [0, 2])
def test_the_loop_takes_less_memory_than_estimated_for_any_number_of_references(
    on_a_gpu, watched, all_blocks, references
):
    kept = watched.ignore(all_blocks.transformer)
    latents_of(all_blocks, references, num_inference_steps=1)
    channels = all_blocks.vae.config.block_out_channels
    reckoned, _ = working_bytes(all_blocks.transformer.inner_dim, channels, BF16)
    assert kept
    assert 0.3e9 < watched.peak < reckoned["denoising"]
    assert watched.copies == []
