"""Checkpoints of both families with a few thousand weights, as folders and as single files."""

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from dream_o.dream_render.registry import read_registry

Tensors = dict[str, torch.Tensor]

TOKENIZER = read_registry().models["miniature"].source.path / "tokenizer"
# Channels of the first and the second text encoder: loaders tell them apart by these.
TEXT, TEXT_2 = 16, 24


def tiny_pipeline(family: str, seed: int = 0) -> Any:
    """An untrained pipeline of the family, float32."""
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    parts: dict[str, Any] = {
        "vae": _vae(),
        "unet": _unet(family),
        "text_encoder": CLIPTextModel(_text(tokenizer, TEXT)),
        "tokenizer": tokenizer,
        "scheduler": DPMSolverMultistepScheduler(steps_offset=1),
    }
    if family == "sd15":
        nothing = {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False)
    second = CLIPTextModelWithProjection(_text(tokenizer, TEXT_2))
    return StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=tokenizer)


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=64,
    )


def _unet(family: str) -> UNet2DConditionModel:
    attending = family == "sd15"
    extra: dict[str, Any] = {"cross_attention_dim": TEXT}
    if not attending:
        extra = {
            "cross_attention_dim": TEXT + TEXT_2,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            # Six numbers of size and crop, and the pooled text.
            "projection_class_embeddings_input_dim": 6 * 8 + TEXT_2,
            "use_linear_projection": True,
        }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=(
            "CrossAttnDownBlock2D" if attending else "DownBlock2D",
            "DownBlock2D" if attending else "CrossAttnDownBlock2D",
        ),
        up_block_types=(
            "UpBlock2D" if attending else "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D" if attending else "UpBlock2D",
        ),
        **extra,
    )


def _text(tokenizer: CLIPTokenizer, channels: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=channels,
        intermediate_size=2 * channels,
        projection_dim=channels,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_single_file(pipeline: Any, path: Path) -> None:
    """The pipeline's weights in one file, under the names that the original code gave them."""
    prefixed = {
        "model.diffusion_model.": _unet_names(pipeline.unet),
        "first_stage_model.": _vae_names(pipeline.vae),
    }
    first = {
        f"text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in pipeline.text_encoder.state_dict().items()
    }
    if isinstance(pipeline, StableDiffusionXLPipeline):
        prefixed["conditioner.embedders.0.transformer."] = first
        prefixed["conditioner.embedders.1.model."] = _open_clip_names(pipeline.text_encoder_2)
    else:
        prefixed["cond_stage_model.transformer."] = first
    save_file(
        {
            prefix + name: tensor.contiguous().clone()
            for prefix, tensors in prefixed.items()
            for name, tensor in tensors.items()
        },
        path,
    )


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def _unet_names(unet: UNet2DConditionModel) -> Tensors:
    """With one layer a level: a level takes two numbers on the way down, two on the way up."""

    def renamed(name: str) -> str:
        for ours, theirs in UNET_ENDS.items():
            if name.startswith(f"{ours}."):
                return theirs + name.removeprefix(ours)
        for ours, theirs in RESNET.items():
            name = name.replace(f".{ours}.", f".{theirs}.") if ".resnets." in name else name
        if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
            place = 1 if match[1] == "attentions" else 2 * int(match[2])
            return f"middle_block.{place}.{match[3]}"
        match = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name)
        assert match, name
        way, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if way == "down":
            number = 1 + 2 * level + (1 if kind == "downsamplers" else layer)
            rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
            return f"input_blocks.{number}.{int(kind == 'attentions')}.{rest}"
        attends = hasattr(unet.up_blocks[level], "attentions")
        place = {"resnets": 0, "attentions": 1, "upsamplers": 2 if attends else 1}[kind]
        return f"output_blocks.{2 * level + (1 if kind == 'upsamplers' else layer)}.{place}.{rest}"

    return {renamed(name): tensor for name, tensor in unet.state_dict().items()}


def _vae_names(vae: AutoencoderKL) -> Tensors:
    names = (
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        ("conv_norm_out", "norm_out"),
        (r"down_blocks\.(\d)\.resnets\.", r"down.\1.block."),
        ("conv_shortcut", "nin_shortcut"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        ("group_norm", "norm"),
        (r"to_q\.", "q."),
        (r"to_k\.", "k."),
        (r"to_v\.", "v."),
        (r"to_out\.0\.", "proj_out."),
        (r"up_blocks\.(\d)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block."),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{3 - int(found[1])}.upsample"),
    )
    renamed = {}
    for name, tensor in vae.state_dict().items():
        for ours, theirs in names:
            name = re.sub(ours, theirs, name)
        # The original's attention is made of 1 x 1 convolutions.
        is_attention = ".attn_1." in name and name.endswith("weight") and tensor.ndim == 2
        renamed[name] = tensor[..., None, None] if is_attention else tensor
    return renamed


def _open_clip_names(encoder: CLIPTextModelWithProjection) -> Tensors:
    state = encoder.state_dict()
    renamed = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    for layer in range(encoder.config.num_hidden_layers):
        ours, theirs = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            renamed[f"{theirs}attn.in_proj_{kind}"] = torch.cat(
                [state[f"{ours}self_attn.{each}_proj.{kind}"] for each in "qkv"]
            )
            for name, original in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                renamed[f"{theirs}{original}.{kind}"] = state[f"{ours}{name}.{kind}"]
    return renamed
