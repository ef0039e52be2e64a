"""The denoising benchmark: what it compares is the same thing, and it counts right."""

import json
import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import denoise, hardware, random_model
from benchmarks.__main__ import main
from benchmarks.flops import plain_step_flops, step_flops
from benchmarks.measure import computed_steps
from benchmarks.plain import as_diffusers_made_it, plain_loop
from benchmarks.random_model import quantized_pipeline, random_inputs, random_pipeline
from dream_o.runtime import layers
from dream_o.runtime.layers import fuse_projections

CPU = torch.device("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def pipeline():
    return random_pipeline(1, (2, 3), CPU, torch.float32)


@pytest.fixture
def small_inputs(monkeypatch):
    """Fewer tokens, 64 of a reference and 128 of the text, and a small matrix for the rate."""
    for module in (denoise, random_model):
        monkeypatch.setattr(module, "REFERENCE_SIDE", 128)
        monkeypatch.setattr(module, "T5_TOKENS", 128)
    monkeypatch.setattr(hardware, "MATRIX_SIDE", {"cpu": 256})


def onednn_flops(tokens, weight, *_, **__):
    return 2 * math.prod(tokens) * weight[0]


def difference(pipeline, inputs):
    ours, _ = denoise.mode_loop(pipeline, inputs, 3)
    plain, _ = denoise.timed_plain_loop(pipeline, inputs, 3)
    return denoise.relative_difference(ours, plain)


@pytest.mark.parametrize("references", denoise.REFERENCES)
def test_the_plain_loop_gives_the_latents_of_the_exact_mode(pipeline, small_inputs, references):
    inputs = random_inputs(pipeline, SIZE, references)
    assert inputs.tokens.all == 128 + 16 + 64 * references
    assert 0 < difference(pipeline, inputs) < 1e-6


def test_the_plain_loop_sees_other_references(pipeline, small_inputs):
    one, two = (random_inputs(pipeline, SIZE, count) for count in (1, 2))
    latents = [denoise.timed_plain_loop(pipeline, each, 2)[0] for each in (one, two)]
    assert denoise.relative_difference(*latents) > 1e-3


def test_the_plain_loop_leaves_the_modes_as_they_were(small_inputs):
    pipeline = random_pipeline(1, (1, 2), CPU, torch.float32)
    fuse_projections(pipeline.transformer, CPU)
    attention = pipeline.transformer.transformer_blocks[0].attn
    with as_diffusers_made_it(pipeline.transformer):
        assert not attention.fused_projections
    assert attention.fused_projections
    assert difference(pipeline, random_inputs(pipeline, SIZE, 1)) < 1e-6


@pytest.mark.parametrize("references", denoise.REFERENCES)
@sdpa_kernel(SDPBackend.MATH)  # the counter does not know the CPU's own attention
def test_operations_are_those_that_torch_counts(pipeline, small_inputs, references):
    inputs = random_inputs(pipeline, SIZE, references)
    transformer = pipeline.transformer
    with as_diffusers_made_it(transformer), FlopCounterMode(display=False) as plain:
        plain_loop(
            transformer,
            pipeline.scheduler,
            inputs.noise,
            inputs.grid,
            inputs.prompt,
            inputs.references,
            steps=1,
            guidance=3.5,
        )
    assert plain.get_total_flops() == plain_step_flops(transformer, inputs.tokens)

    # Counted from the first step on: what comes before is computed once a request.
    known = {torch.ops.mkldnn._linear_pointwise: onednn_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        hook = transformer.register_forward_pre_hook(lambda *_: counter.flop_counts.clear())
        denoise.mode_loop(pipeline, inputs, 1)
        hook.remove()
    assert counter.get_total_flops() == step_flops(transformer, inputs.tokens)


def test_computed_steps_are_counted(pipeline):
    with computed_steps(pipeline.transformer) as computed:
        denoise.mode_loop(pipeline, random_inputs(pipeline, SIZE, 0), 3)
    assert len(computed) == 3


def test_waiting_is_forbidden_from_the_first_step_to_the_last(pipeline):
    inputs, said, bytes_held = random_inputs(pipeline, SIZE, 0), [], iter((5, 7, 9, 9, 12))
    found = denoise.watch_loop(pipeline, inputs, 5, said.append, lambda: next(bytes_held))
    assert found == {"waits in the loop": "no", "bytes grown": 3}
    assert said == ["error"] * 5 + ["default"] * 2


def test_a_loop_that_waits_is_told(pipeline):
    def allocated():
        raise RuntimeError("called a synchronizing CUDA operation\nand more")

    inputs = random_inputs(pipeline, SIZE, 0)
    found = denoise.watch_loop(pipeline, inputs, 2, lambda mode: None, allocated)
    assert found["waits in the loop"] == "called a synchronizing CUDA operation"


def test_the_report_has_a_line_for_each_number_of_references(tmp_path, capsys, small_inputs):
    arguments = "--device cpu --size 64 --blocks 1,2 --steps 1 --repeats 1 --modes exact"
    assert main(["denoise", *arguments.split(), "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "denoise.json").read_text())
    assert [row["mode"] for row in report["rows"]] == [
        "exact, 0 references",
        "exact, 1 reference",
        "exact, 2 references",
    ]
    assert all(float(row["difference"]) < 1e-6 for row in report["rows"])
    assert all(row["steps computed"] == "1 of 1" for row in report["rows"])
    assert report["command"] == f"script/bench denoise {arguments}"
    assert (tmp_path / "denoise.svg").exists()
    page = " ".join((tmp_path / "denoise.md").read_text().split())
    assert "384 wide with 1 double-stream and 2 single-stream" in page
    assert "| exact, 2 references |" in capsys.readouterr().out


def test_fast_has_a_line_for_each_eight_bit_product_that_the_device_has(
    tmp_path, monkeypatch, not_compiled, small_inputs
):
    monkeypatch.setattr(denoise, "has_float8", lambda device: True)
    for module in (denoise, layers):
        monkeypatch.setattr(module, "has_int8", lambda device: True)
    monkeypatch.setattr(denoise, "pick_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(denoise, "REFERENCES", (1,))
    arguments = "--device cpu --size 64 --blocks 1,2 --repeats 1 --modes fast"
    assert main(["denoise", *arguments.split(), "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "denoise.json").read_text())["rows"]
    assert [row["mode"] for row in rows] == [
        f"{name}, 1 reference" for name in ("fast", "fast, int8", "fast, fp8")
    ]
    assert {row["steps computed"] for row in rows} == {"7 of 12"}
    assert rows[0]["plain s per step"] > 0
    plain, int8, fp8 = (float(row["difference"]) for row in rows)
    # Reused steps cost more than eight bits here: int8 differs from plain, in either direction.
    assert plain != int8
    assert max(plain, int8) < fp8 < 0.2
    assert "*fast, fp8* use" in (tmp_path / "denoise.md").read_text()


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_quantized_transformer_shares_what_is_not_quantized(kind):
    pipeline = random_pipeline(1, (2, 1), CPU, torch.bfloat16)
    source, copy = pipeline.transformer, quantized_pipeline(pipeline, kind).transformer
    assert layers.use_plain_weights(copy) == 12 * 2 + 5
    assert copy.idx_embedding.weight is source.idx_embedding.weight
    assert copy.x_embedder.weight is source.x_embedder.weight
    quantized, layer = (each.transformer_blocks[0].attn.to_q for each in (copy, source))
    assert type(layer.weight.data) is torch.Tensor
    held = quantized.qdata.float() * quantized.scale
    assert 0 < denoise.relative_difference(held, layer.weight.detach().float()) < 0.05


def test_wrong_options_are_told_in_a_sentence(capsys):
    for arguments, message in (
        (["--blocks", "2"], "'2' is not 2 numbers such as 2,4"),
        (["--modes", "exact,eager"], "'eager' is not one of exact, compiled, fast"),
    ):
        with pytest.raises(SystemExit):
            main(["denoise", *arguments])
        assert message in capsys.readouterr().err
    assert main(["denoise", "--device", "cuda:99"]) == 1
    assert capsys.readouterr().err.startswith("error: DREAM_O_DEVICE")
    assert main(["denoise", "--device", "cpu", "--size", "250"]) == 1
    assert "--size: 250 is not a multiple of 16" in capsys.readouterr().err
