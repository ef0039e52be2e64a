"""The speed modes: what each may change of the image, and what it computes."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dream_o.errors import SettingError, UserError
from dream_o.library_internals import quick_tracing
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime import attention_backend as attention
from dream_o.runtime import layers, speed
from dream_o.runtime.layers import fuse_projections, use_eight_bit_products, use_plain_weights
from dream_o.runtime.placing import apply_placement
from dream_o.runtime.plans import Placement
from dream_o.service import generator as generate
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings
from tests import ROOT
from tests.pipelines import pipeline_of
from tests.sampled import difference, latents_of

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.fixture
def quantised(quantized):
    """`quantised(to, dtype)`: a pipeline of the quantised bundle."""
    return lambda to, dtype: pipeline_of(quantized(to), dtype)


def speed_up(pipeline: DreamOPipeline, mode: str, plan: str = "none") -> None:
    speed.prepare_blocks(pipeline.transformer, mode, plan, CPU)
    speed.apply_speed(pipeline, mode, lambda: None)


@pytest.mark.parametrize(
    ("setting", "device", "mode"),
    [
        ("auto", CPU, "exact"),
        ("auto", MPS, "exact"),
        ("auto", CUDA, "compiled"),
        ("exact", CUDA, "exact"),
        ("fast", CUDA, "fast"),
        ("compiled", CPU, "compiled"),
    ],
)
def test_the_mode_follows_the_setting_and_the_device(setting, device, mode, monkeypatch):
    monkeypatch.setattr(speed, "has_triton", lambda: True)
    assert speed.choose_speed(setting, device) == mode


def test_a_mode_that_the_machine_cannot_run_is_one_sentence(monkeypatch):
    with pytest.raises(SettingError, match=r"^DREAM_O_SPEED='fast' needs .*; use auto or exact$"):
        speed.choose_speed("fast", MPS)
    monkeypatch.setattr(speed, "has_triton", lambda: False)
    with pytest.raises(SettingError, match="needs triton"):
        speed.choose_speed("compiled", CUDA)
    monkeypatch.setattr(speed, "has_triton", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: None)
    for device, compiler in ((CPU, r"a C\+\+ compiler \(g\+\+\)"), (CUDA, r"a C compiler \(gcc\)")):
        with pytest.raises(SettingError, match=compiler):
            speed.choose_speed("compiled", device)
        assert speed.choose_speed("auto", device) == "exact"


def test_a_machine_without_pythons_headers_says_so_before_anything_is_compiled(
    tmp_path, monkeypatch
):
    """Debian's python3 is without them: the compiler ended with an error of its own."""
    monkeypatch.setattr(speed, "has_triton", lambda: True)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    for device in (CPU, CUDA):
        with pytest.raises(SettingError, match=r"needs Python's headers \(python3-dev\)"):
            speed.choose_speed("compiled", device)
        assert speed.choose_speed("auto", device) == "exact"


def test_fused_projections_take_no_memory_twice_and_change_nothing(pipeline):
    before = latents_of(pipeline)
    fuse_projections(pipeline.transformer, CPU)
    for block in (
        *pipeline.transformer.transformer_blocks,
        *pipeline.transformer.single_transformer_blocks,
    ):
        whole, part = block.attn.to_qkv.weight, block.attn.to_v.weight
        assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        assert torch.equal(part, whole.chunk(3)[2])
    assert difference(latents_of(pipeline), before) < 1e-5


def test_quantised_projections_stay_as_they_are(quantised):
    pipeline = quantised("int8", torch.float32)
    before = latents_of(pipeline)
    fuse_projections(pipeline.transformer, CPU)
    assert torch.equal(latents_of(pipeline), before)


@pytest.fixture
def float8(quantised, monkeypatch, not_compiled, caplog) -> DreamOPipeline:
    caplog.set_level("INFO")
    monkeypatch.setattr(speed, "enable_step_reuse", lambda *_: None)
    return quantised("fp8", torch.bfloat16)


def test_fast_multiplies_in_float8_where_the_weights_are(float8, caplog):
    before = latents_of(float8)
    block = float8.transformer.single_transformer_blocks[0]
    modulation, data = block.norm.linear, block.proj_mlp.weight.data.qdata.data_ptr()
    speed_up(float8, "fast")
    layers = 12 * 2 + 5 * 3
    assert f"{layers} of {layers} layers multiply in eight bits" in caplog.text
    assert block.proj_mlp.qdata.data_ptr() == data
    assert block.norm.linear is modulation
    assert 0 < difference(latents_of(float8).float(), before.float()) < 0.1


def test_float8_products_are_one_graph_a_function_and_give_the_same_twice(float8, monkeypatch):
    speed_up(float8, "fast")
    before = latents_of(float8)
    monkeypatch.undo()
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))
    speed.compile_blocks(float8.transformer)
    with quick_tracing():
        once = latents_of(float8)
    assert difference(once.float(), before.float()) < 0.05
    assert torch.equal(latents_of(float8), once)


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.03), ("fp8", 0.05)])
def test_eight_bit_products_cost_little_more_than_eight_bit_weights(
    quantised, monkeypatch, kind, most
):
    monkeypatch.setattr(layers, "has_int8", lambda device: True)
    pipeline = quantised(kind, torch.bfloat16)
    before = latents_of(pipeline, num_inference_steps=8).float()
    speed.prepare_blocks(pipeline.transformer, "fast", "none", CPU)
    made = latents_of(pipeline, num_inference_steps=8).float()
    assert 0 < difference(made, before) < most


def test_int8_multiplies_in_int8_only_where_the_device_does(quantised, monkeypatch):
    transformer = quantised("int8", torch.bfloat16).transformer
    assert use_plain_weights(transformer) == 12 * 2 + 5 * 3
    assert use_eight_bit_products(transformer, CPU) == 0
    for capability, count in (((7, 0), 0), ((8, 0), 39), ((8, 6), 39)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert use_eight_bit_products(transformer, CUDA) == count


@pytest.mark.parametrize("to", ["int8", "fp8"])
def test_quantised_projections_become_one_matrix_and_change_nothing(quantised, to):
    pipeline = quantised(to, torch.float32)
    use_plain_weights(pipeline.transformer)
    before = latents_of(pipeline)
    fuse_projections(pipeline.transformer, CPU)
    attention = pipeline.transformer.transformer_blocks[0].attn
    whole, part = attention.to_added_qkv.qdata, attention.add_v_proj.qdata
    assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert difference(latents_of(pipeline), before) < 1e-5


def test_attention_is_fused_where_it_is_put(pipeline):
    fuse_projections(pipeline.transformer, torch.device("meta"))
    for name, each in pipeline.transformer.named_parameters():
        # What is not of the attention is for the plan to place.
        assert each.device.type == ("meta" if ".attn." in name else "cpu"), name


class Joins(TorchDispatchMode):
    """The devices on which tensors are concatenated."""

    def __init__(self):
        super().__init__()
        self.devices = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.cat.default:
            self.devices.append(result.device)
        return result


def test_projections_are_fused_before_they_are_placed(fused, pipeline, monkeypatch):
    with Joins() as joins:
        fuse_projections(pipeline.transformer, torch.device("meta"))
    assert set(joins.devices) == {CPU}
    order = []
    monkeypatch.setattr(generate, "prepare_blocks", lambda *_: order.append("prepare"))
    monkeypatch.setattr(generate, "apply_placement", lambda *_: order.append("place"))
    DreamO.load(Settings(device="cpu", speed="exact"), fused("v1.1", True))
    assert order == ["prepare", "place"]


class TestAuto:
    @pytest.fixture
    def broken(self, not_compiled, monkeypatch):
        """On a machine that should compile, and whose compiler fails."""
        monkeypatch.setattr(generate, "choose_speed", lambda setting, *_: "compiled")

        def fail(*_):
            raise RuntimeError("no such kernel")

        monkeypatch.setattr("torch.compile", lambda function, **_: fail)

    def test_auto_serves_with_the_eager_blocks_where_nothing_compiles(self, broken, fused, caplog):
        loaded = DreamO.load(Settings(device="cpu"), fused("v1.1", True))
        assert "do not compile here (RuntimeError)" in caplog.text
        assert loaded.speed == "exact"
        request = Request("a hill", (), width=96, height=64, num_steps=2, seed=3)
        result = loaded.generate(request)
        assert result.metrics["speed"] == "exact"
        assert result.image.size == (96, 64)

    def test_a_mode_by_name_is_refused(self, broken, fused):
        with pytest.raises(UserError, match="do not compile here"):
            DreamO.load(Settings(device="cpu", speed="compiled"), fused("v1.1", True))


def test_float8_layers_that_work_in_float32_keep_its_products(quantised):
    transformer = quantised("fp8", torch.float32).transformer
    assert use_plain_weights(transformer) == 12 * 2 + 5 * 3
    assert use_eight_bit_products(transformer, CUDA) == 0


def test_a_transformer_that_is_streamed_is_reused_and_not_fused(pipeline, not_compiled):
    apply_placement(pipeline, Placement("blocks", 4), CPU)
    before = latents_of(pipeline, num_inference_steps=4)
    speed_up(pipeline, "fast", "blocks")
    assert not any(hasattr(each, "to_qkv") for each in pipeline.transformer.modules())
    made = latents_of(pipeline, num_inference_steps=4)
    assert 0 < difference(made, before) < 0.2
    assert torch.equal(latents_of(pipeline, num_inference_steps=4), made)


def test_weights_that_are_not_quantised_are_left_as_they_are(pipeline):
    assert use_plain_weights(pipeline.transformer) == 0
    assert use_eight_bit_products(pipeline.transformer, CUDA) == 0


@pytest.mark.parametrize("own", [True, False])
def test_blocks_that_do_not_compile_are_one_sentence(pipeline, not_compiled, monkeypatch, own):
    if own:
        monkeypatch.setattr(attention, "choose_attention", lambda *_: attention.NATIVE)

    def fail():
        raise RuntimeError("no such kernel")

    with pytest.raises(UserError, match=r"do not compile here \(RuntimeError\); use DREAM_O_SPEED"):
        speed.apply_speed(pipeline, "compiled", fail)


def test_a_folder_that_cannot_keep_compiled_code_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "kept"))
    with pytest.raises(SettingError, match=r"^TORCHINDUCTOR_CACHE_DIR=.* is not a writable folder"):
        speed.keep_compiled()


@pytest.mark.parametrize("given", [{}, {"TORCHINDUCTOR_CACHE_DIR": ""}])
def test_compiled_code_is_kept_in_the_users_cache(tmp_path, given, monkeypatch):
    code = "import os, dream_o; print(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    environ = {key: os.environ[key] for key in os.environ if "CACHE" not in key}
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environ | given | {"XDG_CACHE_HOME": str(tmp_path)},
    ).stdout
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", found.strip())
    assert speed.keep_compiled() == tmp_path / "dream-o-compiled"
    assert [path.name for path in tmp_path.iterdir()] == ["dream-o-compiled"]
