"""Quantized bundles: their size, how they load, and their error."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dream_o.cli.weights import main
from dream_o.errors import BundleError, UserError
from dream_o.runtime.offload import check_device
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.load import load_components
from dream_o.weights.format.quantized import QUANTIZED, is_quantized
from dream_o.weights.format.tensors import read_header, read_model

STEM = {"transformer": "diffusion_pytorch_model", "text_encoder_2": "model"}
Fused = Callable[[str, bool], Path]
Quantized = Callable[[str], Path]


def linear_bytes(bundle: Path) -> int:
    """The bytes of the quantized models' files."""
    return sum(
        path.stat().st_size for name in QUANTIZED for path in (bundle / name).glob("*.safetensors")
    )


def block_bytes(bundle: Path) -> int:
    """The bytes of the quantized models' blocks."""
    return sum(
        math.prod(entry.shape) * entry.dtype.itemsize
        for name in QUANTIZED
        for key, entry in read_model(bundle / name, STEM[name]).items()
        if "block" in key
    )


def test_int8_is_at_most_30_percent_of_float32(fused: Fused, quantized: Quantized) -> None:
    # Tensors outside the blocks stay in 16 bits; they are a large part of the parity model, and a
    # small one of FLUX.1-dev.
    assert block_bytes(quantized("int8")) <= 0.30 * block_bytes(fused("v1.1", True))
    assert linear_bytes(quantized("int8")) <= 0.33 * linear_bytes(fused("v1.1", True))


def test_at_full_size_int8_is_at_most_30_percent_of_float32() -> None:
    with torch.device("meta"):
        parameters = dict(DreamOTransformer2DModel().named_parameters())
    total = sum(4 * each.numel() for each in parameters.values())
    stored = sum(
        each.numel() + 4 * each.shape[0]
        if is_quantized("transformer", name, each.ndim)
        else 2 * each.numel()
        for name, each in parameters.items()
    )
    kept = sum(
        2 * each.numel()
        for name, each in parameters.items()
        if each.ndim == 2 and not is_quantized("transformer", name, each.ndim)
    )
    assert stored <= 0.255 * total
    assert kept < 0.2e9


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_the_linear_layers_are_stored_in_8_bits(to: str, quantized: Quantized) -> None:
    for name in QUANTIZED:
        entries = read_model(quantized(to) / name, STEM[name])
        stored = {key: entry.dtype for key, entry in entries.items() if key.endswith("_qdata")}
        assert len(stored) > 10
        assert set(stored.values()) == {torch.int8 if to == "int8" else torch.float8_e4m3fn}
        others = [e for key, e in entries.items() if "_weight_" not in key]
        assert {entry.dtype for entry in others} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_it_loads_as_it_is_stored(
    to: str, dtype: torch.dtype, quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchao.quantization import Float8Tensor, Int8Tensor

    def no_pass(*_: object, **__: object) -> None:
        raise AssertionError("quantized at start-up")

    for tensor in (Int8Tensor, Float8Tensor):
        monkeypatch.setattr(tensor, "from_hp", no_pass)
    components = load_components(quantized(to), dtype)
    kind = {"int8": "Int8Tensor", "fp8": "Float8Tensor"}[to]
    for name in QUANTIZED:
        for path, module in components[name].named_modules():
            if isinstance(module, torch.nn.Linear):
                held = type(module.weight.data).__name__
                assert (held, module.weight.dtype) == (
                    kind if "block" in path else "Tensor",
                    dtype,
                ), path


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_layers_that_every_token_passes_stay_in_16_bits(
    to: str, fused: Fused, quantized: Quantized
) -> None:
    before, after = (
        read_model(bundle / "transformer", STEM["transformer"])
        for bundle in (fused("v1.1", True), quantized(to))
    )
    kept = {name for name in before if name in after}
    for layer in (
        "x_embedder",
        "context_embedder",
        "time_text_embed.timestep_embedder.linear_1",
        "time_text_embed.guidance_embedder.linear_2",
        "time_text_embed.text_embedder.linear_1",
        "norm_out.linear",
        "proj_out",
    ):
        assert f"{layer}.weight" in kept
        assert torch.equal(
            after[f"{layer}.weight"].tensor(), before[f"{layer}.weight"].tensor().bfloat16()
        )
    assert "single_transformer_blocks.0.proj_out.weight" not in kept


def test_a_layer_nearly_equals_the_one_before_quantization(
    fused: Fused, quantized: Quantized
) -> None:
    layers = [
        load_components(bundle, torch.float32)["transformer"].transformer_blocks[0].attn.to_q
        for bundle in (fused("v1.1", True), quantized("int8"), quantized("fp8"))
    ]
    inputs = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    exact, *others = [layer(inputs) for layer in layers]
    for bound, other in zip((0.01, 0.04), others, strict=True):
        assert other.dtype == torch.float32
        assert 0 < torch.linalg.norm(other - exact) / torch.linalg.norm(exact) < bound


def test_latents_of_int8_are_within_3_percent(fused: Fused, quantized: Quantized) -> None:
    from dream_o.pipeline import DreamOPipeline

    exact, near = (
        DreamOPipeline.from_pretrained(bundle, torch_dtype=torch.float32)(
            "a toy dog playing guitar on the beach",
            height=256,
            width=256,
            num_inference_steps=8,
            generator=torch.Generator().manual_seed(42),
            output_type="latent",
        ).images
        for bundle in (fused("v1.1", True), quantized("int8"))
    )
    assert torch.linalg.norm(near - exact) <= 0.03 * torch.linalg.norm(exact)


def test_shards_of_a_quantized_model_load(
    fused: Fused, quantized: Quantized, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dream_o.weights.format.tensors.SHARD", 100_000)
    quantize(fused("v1.1", True), "int8", tmp_path / "int8")
    assert len(list((tmp_path / "int8/transformer").glob("*.safetensors"))) > 4
    one, other = (
        load_components(bundle, torch.float32) for bundle in (tmp_path / "int8", quantized("int8"))
    )
    for name in QUANTIZED:
        for left, right in zip(one[name].modules(), other[name].modules(), strict=True):
            if isinstance(left, torch.nn.Linear):
                assert type(left.weight.data) is type(right.weight.data)
                assert torch.equal(left.weight.dequantize(), right.weight.dequantize())


def test_bundle_json_states_the_precision(fused: Fused, quantized: Quantized) -> None:
    source, bundle = read_bundle(fused("v1.1", True)), read_bundle(quantized("int8"))
    assert (bundle.precision, bundle.dtype) == ("int8", "bfloat16")
    assert bundle.sources == source.sources
    assert bundle.model_version == "v1.1"
    metadata = read_header(quantized("int8") / "text_encoder_2/model.safetensors")[1]
    assert json.loads(metadata["tensor_names"])


def test_a_damaged_or_quantized_source_is_refused(
    quantized: Quantized, fused: Fused, tmp_path: Path
) -> None:
    import shutil

    with pytest.raises(BundleError, match="int8 is already quantized"):
        quantize(quantized("int8"), "fp8", tmp_path / "fp8")
    bundle = Path(shutil.copytree(fused("v1.1", True), tmp_path / "bundle"))
    path = bundle / "vae/diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"vae/diffusion_pytorch_model\.safetensors is damaged"):
        quantize(bundle, "int8", tmp_path / "int8")
    assert not (tmp_path / "int8").exists()


def test_the_command(fused: Fused, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = str(tmp_path / "int8")
    assert main(["quantize", str(fused("v1.1", True)), "--to", "int8", "--output", output]) == 0
    assert main(["info", output]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{output}\n")
    assert "precision  int8 over bfloat16" in out


def test_fp8_says_what_it_needs(quantized: Quantized, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(quantized("fp8"))
    with pytest.raises(UserError, match=r"fp8 bundle needs a GPU with float8 units.*cpu.*int8"):
        check_device(bundle, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(UserError, match=r"8\.9 or newer, and this one has 8\.6; use an int8"):
        check_device(bundle, torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_device(bundle, torch.device("cuda"))
    check_device(read_bundle(quantized("int8")), torch.device("cpu"))


def test_the_time_of_each_part_is_logged(
    quantized: Quantized, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    with caplog.at_level(logging.INFO, "dream_o"):
        load_components(quantized("int8"))
    parts = {
        line.split()[1] for line in caplog.messages if line.startswith("loaded ") and " in " in line
    }
    assert {"transformer", "text_encoder_2", "vae", "tokenizer_2"} <= parts


def test_a_quantized_bundle_has_as_many_parameters(fused: Fused, quantized: Quantized) -> None:
    def parameters(bundle: Path) -> int:
        entries = read_model(bundle / "transformer", STEM["transformer"])
        return sum(
            math.prod(entry.shape)
            for name, entry in entries.items()
            if not name.endswith(("_scale", "_zero_point"))
        )

    assert parameters(quantized("int8")) == parameters(fused("v1.1", True))
