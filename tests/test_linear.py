"""The blocks' linear layers: what torch's modules give, in whichever way it is computed."""

import pytest
import torch
from torch.nn.functional import gelu

from dream_o.onednn import linear, linear_gelu, linear_joined


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
