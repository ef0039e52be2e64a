"""The blocks' linear layers: what torch's modules give, in whichever way it is computed."""

import pytest
import torch
from torch._inductor import config as inductor_config
from torch._inductor.exc import InductorError
from torch.nn.functional import gelu

from dream_o.int4_linear import Int4Linear, in_four_bits, packed
from dream_o.library_internals import float8_product, int8_product
from dream_o.onednn import linear, linear_gelu, linear_joined, shared_input
from dream_o.quantized_linear import QuantizedLinear, in_eight_bits, of_torchao
from dream_o.weights.build.quantize import kinds


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return torch.nn.Linear(24, 16)


def tokens(channels=24):
    return torch.randn(2, 7, channels, generator=torch.Generator().manual_seed(1))


def difference(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


def ways(layer, given):
    """Each function's result, and what it is to be."""
    left, right = given.split([8, 16], dim=2)
    yield linear(layer, given), layer(given)
    yield linear_gelu(layer, given), gelu(layer(given), approximate="tanh")
    yield linear_joined(layer, left, right), layer(given)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 0)])
def test_results_are_those_of_the_modules(layer, dtype, most):
    layer.to(dtype)
    with torch.no_grad():
        for made, wanted in ways(layer, tokens().to(dtype)):
            assert made.dtype == dtype
            assert difference(made, wanted) <= most


def test_rows_that_are_not_one_after_the_other_are_no_other_rows(layer):
    strided = tokens(48)[..., ::2]
    layer.weight = torch.nn.Parameter(torch.randn(24, 16).T)
    with torch.no_grad():
        for made, wanted in ways(layer, strided):
            assert difference(made, wanted) < 1e-6


def test_gradients_flow_where_they_are_asked_for(layer):
    for made, wanted in ways(layer, tokens()):
        ours, theirs = (torch.autograd.grad(each.sum(), layer.weight) for each in (made, wanted))
        assert difference(ours[0], theirs[0]) < 1e-6


def test_layers_that_are_not_plain_are_called(layer):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(layer, Int8WeightOnlyConfig())
    with torch.no_grad():
        for made, wanted in ways(layer, tokens()):
            assert torch.equal(made, wanted)


class Adapted(torch.nn.Module):
    """An adapter's layer around another, whose weight it shows."""

    def __init__(self, base):
        super().__init__()
        self.base, self.weight, self.bias = base, base.weight, base.bias

    def forward(self, given):
        return self.base(given) + 1


def hooked(change):
    layer = torch.nn.Linear(24, 16)
    change(layer)
    return layer


def replace_forward(layer):
    own = layer.forward
    layer.forward = lambda given: own(given) + 1


@pytest.mark.parametrize(
    "changed",
    [
        Adapted(torch.nn.Linear(24, 16)),
        hooked(lambda layer: layer.register_forward_hook(lambda _, given, made: made + 1)),
        hooked(lambda layer: layer.register_forward_pre_hook(lambda _, given: (given[0] + 1,))),
        hooked(replace_forward),
    ],
    ids=["adapter", "hook", "pre-hook", "forward"],
)
def test_adapters_and_hooks_are_not_passed_over(changed):
    with torch.no_grad():
        for made, wanted in ways(changed, tokens()):
            assert torch.equal(made, wanted)


def test_float32_on_a_cpu_is_multiplied_by_onednn(layer):
    with torch.no_grad(), torch.profiler.profile() as profile:
        list(ways(layer, tokens()))
    called = {each.key: each.count for each in profile.key_averages()}
    onednn = torch.backends.mkldnn.is_available()
    assert called.get("mkldnn::_linear_pointwise", 0) == (4 if onednn else 0)


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("fp8", 0.06)])
def test_plain_quantized_weights_give_the_products_of_torchaos(layer, kind, most):
    quantized = torch.nn.Linear(24, 16)
    weight = kinds()[kind].quantize(layer.weight.detach(), torch.float32)
    quantized.weight = torch.nn.Parameter(weight)
    quantized.bias = layer.bias
    plain = of_torchao(quantized)
    given = tokens()
    with torch.no_grad():
        assert difference(linear(plain, given), quantized(given)) < 1e-6
        assert 0 < difference(linear(plain, given), layer(given)) < most


def test_int8_products_are_those_of_torchaos_dynamic_activations():
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.manual_seed(0)
    theirs = torch.nn.Linear(64, 32, dtype=torch.bfloat16)
    weight = kinds()["int8"].quantize(theirs.weight.detach().float(), torch.bfloat16)
    ours = QuantizedLinear(weight.qdata, weight.scale, theirs.bias.detach().clone())
    ours.eight_bit_products = True
    quantize_(theirs, Int8DynamicActivationInt8WeightConfig())
    given = tokens(64).bfloat16()
    with torch.no_grad():
        assert difference(ours(given), theirs(given)) < 0.01


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_shared_eight_bit_tokens_give_what_each_layer_makes_of_its_own(kind):
    torch.manual_seed(0)
    given = tokens(64).bfloat16()
    layers = []
    for _ in range(2):
        weight = kinds()[kind].quantize(torch.randn(32, 64), torch.bfloat16)
        layer = QuantizedLinear(weight.qdata, weight.scale, torch.randn(32).bfloat16())
        layer.eight_bit_products = True
        layers.append(layer)
    shared = shared_input(layers[0], given)
    assert shared.data.dtype == layers[0].qdata.dtype
    with torch.no_grad():
        for layer in layers:
            assert torch.equal(linear(layer, shared), layer(given))
            weight = layer.qdata.float() * layer.scale
            wanted = given.float() @ weight.T + layer.bias.float()
            assert 0 < difference(layer(given), wanted) < 0.05


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_cpus_eight_bit_products_are_those_of_their_values(dtype):
    # docs/benchmarks/precision.md relies on it: the values and scales, multiplied without rounding.
    torch.manual_seed(0)
    rows, columns = (in_eight_bits(torch.randn(1, count, 256), dtype) for count in (20, 24))
    exact = rows.data[0].double() @ columns.data[0].double().T
    if dtype == torch.int8:
        made = int8_product(rows.data[0], columns.data[0].T)
        assert torch.equal(made.double(), exact)
        return
    scales = rows.scale[0], columns.scale[0].T
    made = float8_product(rows.data[0], columns.data[0].T, *scales, None, torch.bfloat16)
    wanted = exact * scales[0] * scales[1]
    assert difference(made, wanted) < 2**-9


def test_tokens_of_zeros_are_zeros_in_eight_bits():
    for dtype in (torch.int8, torch.float8_e4m3fn):
        given = in_eight_bits(torch.zeros(1, 2, 8), dtype)
        assert not given.data.float().any()
        assert given.scale.isfinite().all()


def a_quantized(kind: str, fast: bool) -> torch.nn.Module:
    """A layer of 64 to 32 channels in bfloat16."""
    torch.manual_seed(0)
    matrix, bias = torch.randn(32, 64), torch.randn(32).bfloat16()
    if kind == "int4":
        levels, scale, offset = in_four_bits(matrix, torch.bfloat16)
        return Int4Linear(packed(levels), scale, offset, bias)
    weight = kinds()[kind].quantize(matrix, torch.bfloat16)
    layer = QuantizedLinear(weight.qdata, weight.scale, bias)
    layer.eight_bit_products = fast
    return layer


@pytest.mark.parametrize(
    ("kind", "fast", "product"),
    [
        ("int8", False, "addmm"),
        ("int8", True, "_int_mm"),
        ("fp8", False, "addmm"),
        ("fp8", True, "_scaled_mm"),
        ("int4", False, "addmm"),
    ],
)
def test_torchs_compiler_finds_no_weight_only_product(monkeypatch, tmp_path, kind, fast, product):
    # It replaces int8 products that match a pattern by its weight-only product, which on CUDA is a
    # scalar loop. The pattern is the same on a CPU.
    called: list[str] = []

    def look(graph: torch.fx.Graph) -> None:
        called.extend(node.target.__name__ for node in graph.nodes if node.op == "call_function")
        raise InterruptedError  # ends the compiler before it generates code

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    compiled = torch.compile(a_quantized(kind, fast), dynamic=True, fullgraph=True)
    with (
        inductor_config.patch(post_grad_custom_post_pass=look),
        torch.no_grad(),
        pytest.raises(InductorError, match="InterruptedError"),
    ):
        compiled(tokens(64).bfloat16())
    assert called.count(f"{product}.default") == 1
    assert "woq_int8" not in called
