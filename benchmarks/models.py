"""Generates base models and adapters of any size with random weights, tensor by tensor."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT
from dream_o.weights.build.recipe import RECIPES, Adapter
from dream_o.weights.format.layout import COMPONENTS
from dream_o.weights.format.tensors import Planned, tensor_blocks, write_model

SMALL_BASE = ROOT / "tests" / "data" / "parity" / "base"
"""The source of the tokenizers, CLIP, the VAE and the scheduler, whose size matters little."""

SCALE = 0.02


@dataclass(frozen=True)
class Size:
    """The dimensions of a generated model.

    Attributes:
        heads: the transformer's attention heads, each 128 wide.
        double, single: the numbers of its double-stream and single-stream blocks.
        t5_layers: the layers of T5, 1024 wide.
        rank: the rank of the adapters.
        shards: the number of the transformer's files.
    """

    heads: int = 8
    double: int = 6
    single: int = 12
    t5_layers: int = 12
    rank: int = 32
    shards: int = 3


def generate_base(folder: Path, size: Size, dtype: torch.dtype) -> int:
    """Writes a diffusers folder like FLUX.1's; returns the parameters of transformer and T5."""
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    shutil.copytree(SMALL_BASE, folder)
    pooled = json.loads((folder / "text_encoder/config.json").read_text())["hidden_size"]
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            num_layers=size.double,
            num_single_layers=size.single,
            num_attention_heads=size.heads,
            joint_attention_dim=1024,
            pooled_projection_dim=pooled,
            guidance_embeds=True,
        )
        t5_config = T5Config(
            vocab_size=32128,
            d_model=1024,
            d_ff=2816,
            d_kv=64,
            num_heads=16,
            num_layers=size.t5_layers,
            feed_forward_proj="gated-gelu",
        )
        t5 = T5EncoderModel(t5_config)
    config: dict[str, Any] = {"_class_name": "FluxTransformer2DModel", **transformer.config}
    (folder / "transformer/config.json").write_text(json.dumps(config))
    t5_config.save_pretrained(folder / "text_encoder_2")
    parameters = 0
    for name, stem, model in (
        ("transformer", COMPONENTS["transformer"].stem, transformer),
        ("text_encoder_2", COMPONENTS["text_encoder_2"].stem, t5),
    ):
        for old in (folder / name).glob("*.safetensors"):
            old.unlink()
        shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        shapes.pop("encoder.embed_tokens.weight", None)  # tied to shared.weight
        write_model(folder / name, stem or "", _random(shapes, dtype))
        parameters += sum(torch.Size(shape).numel() for shape in shapes.values())
    return parameters


def generate_adapters(folder: Path, size: Size, dtype: torch.dtype) -> None:
    """Writes all adapters of all recipes for a base of this size."""
    for adapter in {step.file: step for steps in RECIPES.values() for step in steps}.values():
        shapes = _dreamo_shapes(size) if adapter.layout == "dreamo" else _diffusers_shapes(size)
        if adapter.file == "dreamo.safetensors":
            width = size.heads * 128
            shapes |= {
                "dreamo_task_embedding.weight": (2, width),
                "dreamo_idx_embedding.weight": (10, width),
                "dreamo_t5_embedding.weight": (10, 1024),
            }
        _write_adapter(folder, adapter, _random(shapes, dtype))


def _write_adapter(folder: Path, adapter: Adapter, plan: Mapping[str, Planned]) -> None:
    path = folder / adapter.file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_model(path.parent, path.stem, plan)


def _dreamo_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    width = size.heads * 128
    factors: dict[str, tuple[int, int]] = {}
    for block in range(size.double):
        for stream in "12":
            factors[f"double_blocks_{block}_processor.qkv_lora{stream}"] = (width, 3 * width)
            factors[f"double_blocks_{block}_processor.proj_lora{stream}"] = (width, width)
    for block in range(size.single):
        factors[f"single_blocks_{block}_processor.qkv_lora"] = (width, 3 * width)
        factors[f"single_blocks_{block}_processor.proj_lora"] = (5 * width, width)
    return {
        f"{name}.{end}.weight": (size.rank, into) if end == "down" else (out, size.rank)
        for name, (into, out) in factors.items()
        for end in ("down", "up")
    }


def _diffusers_shapes(size: Size) -> dict[str, tuple[int, ...]]:
    width = size.heads * 128
    double = {
        **{f"attn.{name}": (width, width) for name in ("to_q", "to_k", "to_v", "to_out.0")},
        **{f"attn.add_{name}_proj": (width, width) for name in "qkv"},
        "attn.to_add_out": (width, width),
        "ff.net.0.proj": (width, 4 * width),
        "ff.net.2": (4 * width, width),
        "ff_context.net.0.proj": (width, 4 * width),
        "ff_context.net.2": (4 * width, width),
        "norm1.linear": (width, 6 * width),
        "norm1_context.linear": (width, 6 * width),
    }
    single = {
        **{f"attn.{name}": (width, width) for name in ("to_q", "to_k", "to_v")},
        "proj_mlp": (width, 4 * width),
        "proj_out": (5 * width, width),
        "norm.linear": (width, 3 * width),
    }
    modules = {
        f"{kind}.{block}.{name}": sides
        for kind, count, names in (
            ("transformer_blocks", size.double, double),
            ("single_transformer_blocks", size.single, single),
        )
        for block in range(count)
        for name, sides in names.items()
    }
    return {
        f"transformer.{name}.lora_{end}.weight": (size.rank, into)
        if end == "A"
        else (out, size.rank)
        for name, (into, out) in modules.items()
        for end in "AB"
    }


def _random(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Planned]:
    def planned(index: int, shape: tuple[int, ...]) -> Planned:
        def blocks() -> Iterator[memoryview]:
            generator = torch.Generator().manual_seed(index)
            tensor = torch.randn(shape, generator=generator).mul_(SCALE).to(dtype)
            yield from tensor_blocks(tensor)

        return Planned(dtype, shape, blocks)

    return {name: planned(index, shape) for index, (name, shape) in enumerate(shapes.items())}
