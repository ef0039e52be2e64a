"""User LoRAs: every layout is merged as peft merges it; keys that do not fit are named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders import FluxLoraLoaderMixin
from safetensors.torch import load_file, save_file

from dream_o.cli.weights import main
from dream_o.errors import BundleError
from dream_o.pipeline import DreamOPipeline
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings
from dream_o.weights.build.lora import UserLora, read_lora
from dream_o.weights.build.planned import merged
from dream_o.weights.build.recipe import low_ranks
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.tensors import read_model, write_model
from tests.conftest import PARITY

Fused = Callable[[str, bool], Path]
STEM = "diffusion_pytorch_model"
RANK = 4


def factors(
    shapes: dict[str, tuple[int, int]], down: str, up: str, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random factors of modules with weights `(out, in)`, under two endings of their keys."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (rows, columns) in shapes.items():
        tensors[f"{module}.{down}"] = torch.randn(RANK, columns, generator=random) * 0.1
        tensors[f"{module}.{up}"] = torch.randn(rows, RANK, generator=random) * 0.1
    return tensors


def linear_shapes(model: torch.nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


@pytest.fixture(scope="module")
def flux_in_small() -> FluxTransformer2DModel:
    """FLUX.1 with a small width and few blocks; the numbers of some blocks have two digits."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        num_layers=2, num_single_layers=11, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=8, in_channels=16, guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 0.8, -1.25])
@pytest.mark.parametrize("alpha", [None, 3.0])
def test_a_merged_lora_is_what_peft_loads_and_fuses(
    flux_in_small: FluxTransformer2DModel, scale: float, alpha: float | None, tmp_path: Path
) -> None:
    flux_in_small.save_pretrained(tmp_path / "transformer")
    shapes = linear_shapes(flux_in_small)
    tensors = factors(
        {f"transformer.{name}": shape for name, shape in shapes.items()},
        "lora_A.weight", "lora_B.weight",
    )  # fmt: skip
    if alpha is not None:
        tensors |= {f"transformer.{name}.alpha": torch.tensor(alpha) for name in shapes}
    save_file(tensors, tmp_path / "mine.safetensors")

    held = read_lora(UserLora(tmp_path / "mine.safetensors", scale))
    entries = read_model(tmp_path / "transformer", STEM)
    (tmp_path / "merged").mkdir()
    write_model(tmp_path / "merged", STEM, merged(entries, [held["transformer"]], None))
    ours = load_file(tmp_path / "merged" / f"{STEM}.safetensors")

    wanted = FluxTransformer2DModel.from_pretrained(tmp_path / "transformer")
    state, alphas = FluxLoraLoaderMixin.lora_state_dict(dict(tensors), return_alphas=True)
    wanted.load_lora_adapter(state, network_alphas=alphas, prefix="transformer")
    wanted.fuse_lora(lora_scale=scale)
    wanted.unload_lora()
    expected = wanted.state_dict()
    assert ours.keys() == expected.keys()
    assert max(float((ours[name] - expected[name]).abs().max()) for name in ours) == 0.0
    before = flux_in_small.state_dict()
    assert all(not torch.equal(ours[f"{name}.weight"], before[f"{name}.weight"]) for name in shapes)


WIDTH = 3072  # kohya's converter splits joined projections at FLUX.1's own width, and these alone
LAYOUTS = {
    "kohya": factors(
        {
            "lora_unet_double_blocks_0_img_attn_qkv": (3 * WIDTH, WIDTH),
            "lora_unet_double_blocks_0_img_mlp_0": (4 * 48, 48),
            "lora_unet_single_blocks_37_linear2": (48, 5 * 48),
        },
        "lora_down.weight", "lora_up.weight",
    )
    | {
        f"lora_unet_{name}.alpha": torch.tensor(2.0)
        for name in (
            "double_blocks_0_img_attn_qkv", "double_blocks_0_img_mlp_0", "single_blocks_37_linear2"
        )
    },
    "XLabs": factors(
        {
            "double_blocks.3.processor.qkv_lora1": (3 * 48, 48),
            "double_blocks.3.processor.proj_lora2": (48, 48),
        },
        "down.weight", "up.weight",
    ),
    "peft": factors(
        {"transformer.single_transformer_blocks.2.attn.to_k": (48, 48)},
        "lora_A.weight", "lora_B.weight",
    ),
    "CLIP": factors(
        {
            "lora_unet_double_blocks_0_img_attn_proj": (48, 48),
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
            "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": (32, 32),
        },
        "lora_down.weight", "lora_up.weight",
    ),
}  # fmt: skip
MODULES = {
    "kohya": {
        *(f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"),
        "transformer.transformer_blocks.0.ff.net.0.proj",
        "transformer.single_transformer_blocks.37.proj_out",
    },
    "XLabs": {
        *(f"transformer.transformer_blocks.3.attn.to_{part}" for part in "qkv"),
        "transformer.transformer_blocks.3.attn.to_add_out",
    },
    "peft": {"transformer.single_transformer_blocks.2.attn.to_k"},
    "CLIP": {
        "transformer.transformer_blocks.0.attn.to_out.0",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.0.self_attn.out_proj",
    },
}


# The module of the first rows of each layout's first product, and the ends of its keys.
FIRST = {
    "kohya": ("transformer.transformer_blocks.0.attn.to_q", ("lora_down", "lora_up")),
    "XLabs": ("transformer.transformer_blocks.3.attn.to_q", ("down", "up")),
    "peft": ("transformer.single_transformer_blocks.2.attn.to_k", ("lora_A", "lora_B")),
    "CLIP": ("transformer.transformer_blocks.0.attn.to_out.0", ("lora_down", "lora_up")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_that_diffusers_converts_is_read(layout: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(LAYOUTS[layout], file)
    products = {
        f"{component}.{each.module}": each.delta(lambda key, held=held: held[key].tensor())
        for component, (adapter, held) in read_lora(UserLora(file)).items()
        for each in low_ranks(adapter, held)
    }
    assert products.keys() == MODULES[layout]
    module, ends = FIRST[layout]
    key = next(iter(LAYOUTS[layout])).removesuffix(f".{ends[0]}.weight")
    down, up = (LAYOUTS[layout][f"{key}.{end}.weight"] for end in ends)
    scale = 0.5 if layout == "kohya" else 1.0  # alpha over rank
    assert torch.allclose(products[module], scale * (up @ down)[: len(products[module])], atol=1e-6)


def test_alphas_in_the_metadata_scale_as_in_peft(tmp_path: Path) -> None:
    module = "transformer_blocks.0.attn.to_q"
    file = tmp_path / "mine.safetensors"
    tensors = factors({f"transformer.{module}": (48, 48)}, "lora_A.weight", "lora_B.weight")
    described = {
        "transformer.r": RANK,
        "transformer.lora_alpha": 8,
        "transformer.alpha_pattern": {},
    }
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(described), "format": "pt"})
    adapter, held = read_lora(UserLora(file))["transformer"]
    (low_rank,) = low_ranks(adapter, held)
    product = low_rank.delta(lambda key: held[key].tensor())
    up, down = (tensors[f"transformer.{module}.lora_{end}.weight"] for end in "BA")
    assert torch.equal(product, 2.0 * (up @ down))


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ("transformer.transformer_blocks.0.attn.to_q.dora_scale", "is a DoRA magnitude"),
        ("transformer.mystery.lora_A.weight", "mystery.lora_A.weight has no up"),
        ("vae.decoder.lora_A.weight", "vae.decoder.lora_A.weight"),
    ],
)
def test_a_key_that_fits_nothing_is_refused_by_its_name(
    extra: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.safetensors"
    save_file(LAYOUTS["peft"] | {extra: torch.ones(4, 48)}, file)
    fuse = ["fuse", "--base", str(PARITY / "base"), "--adapters", str(PARITY / "adapters")]
    output = tmp_path / "bundle"
    assert main([*fuse, "--output", str(output), "--lora", str(file)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: mine.safetensors: ")
    assert named in error
    assert not output.exists()


def test_a_kohya_key_that_the_converter_would_drop_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    strange = factors({"lora_unet_double_blocks_99_img_attn_qkv": (9216, 3072)}, "lora_down.weight",
                      "lora_up.weight")  # fmt: skip
    save_file(LAYOUTS["kohya"] | strange, file)
    with pytest.raises(BundleError, match="lora_unet_double_blocks_99_img_attn_qkv"):
        read_lora(UserLora(file))


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the parity model's attention."""
    base = load_file(PARITY / "base" / "transformer" / f"{STEM}.safetensors")
    shapes = {
        f"transformer.{name.removesuffix('.weight')}": tuple(tensor.shape)
        for name, tensor in base.items()
        if name.endswith((".to_q.weight", ".to_out.0.weight"))
    }
    file = tmp_path_factory.mktemp("loras") / "style.safetensors"
    save_file(factors(shapes, "lora_A.weight", "lora_B.weight"), file)
    return file


def latents(pipeline: DreamOPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    seeded = torch.Generator().manual_seed(3)
    return pipeline(
        "a hill", height=64, width=64, num_inference_steps=2, generator=seeded,
        output_type="latent",
    ).images  # fmt: skip


def test_trying_a_lora_in_python_equals_fusing_it(
    style: Path, fused: Fused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fuse = ["fuse", "--base", str(PARITY / "base"), "--adapters", str(PARITY / "adapters")]
    bundle = tmp_path / "bundle"
    assert main([*fuse, "--output", str(bundle), "--lora", f"{style}=0.5"]) == 0
    (recorded,) = read_bundle(bundle).loras
    assert (recorded.name, recorded.scale) == ("style.safetensors", 0.5)
    assert read_bundle(bundle).sources["loras/1/style.safetensors"] == recorded.sha256
    capsys.readouterr()
    assert main(["info", str(bundle)]) == 0
    assert "style.safetensors, scale 0.5" in capsys.readouterr().out
    wanted = latents(DreamOPipeline.from_pretrained(bundle))

    pipeline = DreamOPipeline.from_pretrained(fused("v1.1", True))
    before = latents(pipeline)
    pipeline.load_lora_weights(style.parent, weight_name=style.name, adapter_name="style")
    pipeline.set_adapters("style", 0.5)
    tried = latents(pipeline)
    assert float((tried - wanted).norm() / wanted.norm()) < 1e-5
    assert float((tried - before).norm() / before.norm()) > 1e-3
    pipeline.unload_lora_weights()
    assert torch.equal(latents(pipeline), before)

    small = Request("a hill", width=64, height=64, num_steps=1)
    result = DreamO.load(Settings(device="cpu"), bundle).generate(small)
    assert result.metadata["loras"] == {"style.safetensors": 0.5}


def test_an_invalid_scale_and_a_missing_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fuse = ["fuse", "--output", str(tmp_path / "bundle"), "--lora"]
    assert main([*fuse, "mine.safetensors=strong"]) == 1
    assert "'strong' is not a scale; use FILE=SCALE" in capsys.readouterr().err
    assert main([*fuse, "nowhere.safetensors=0.5"]) == 1
    assert capsys.readouterr().err == (
        "error: --lora nowhere.safetensors: the file does not exist; "
        "give a file or hf://owner/repository/FILE\n"
    )
