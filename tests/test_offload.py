"""Offloading plans: the least invasive that fits, and images that stay the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dream_o.errors import SettingError, UserError
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime.memory_needs import PLANS, needs
from dream_o.runtime.offload import MEANINGS, apply_plan, choose_plan, plan_for
from dream_o.service.generator import DreamO
from dream_o.service.settings import OFFLOADS, Settings
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.bundle import read_bundle

GB = 10**9
# FLUX.1-dev's sizes, rounded.
NEEDED = {
    "bfloat16": {"none": 37 * GB, "text": 28 * GB, "model": 27 * GB, "group": 6 * GB},
    "int8": {"none": 20 * GB, "text": 16 * GB, "model": 15 * GB, "group": 5 * GB},
}


@pytest.mark.parametrize(
    ("free", "plan"),
    [(80, "none"), (37, "none"), (32, "text"), (27, "model"), (24, "group"), (6, "group")],
)
def test_the_least_invasive_plan_that_fits_is_chosen(free: int, plan: str) -> None:
    assert choose_plan("auto", NEEDED, free * GB) == plan


def test_a_setting_forces_a_plan() -> None:
    assert choose_plan("group", NEEDED, 80 * GB) == "group"
    assert choose_plan("none", NEEDED, 1 * GB) == "none"


def test_when_nothing_fits_the_numbers_and_the_way_out_are_told() -> None:
    with pytest.raises(UserError) as raised:
        choose_plan("auto", NEEDED, 5 * GB)
    assert str(raised.value) == (
        "not enough GPU memory: 5.0 GB free, 37.0 GB needed, 6.0 GB with everything offloaded; "
        "a bundle in int8 would fit with DREAM_O_OFFLOAD=group "
        "(dream-o weights quantize BUNDLE --to int8 --output BUNDLE2)"
    )
    with pytest.raises(UserError, match="use a GPU with more memory"):
        choose_plan("auto", NEEDED, 1 * GB)


def test_the_setting_s_values_are_the_plans() -> None:
    assert ("auto", *PLANS) == OFFLOADS
    assert tuple(MEANINGS) == PLANS


def test_needs_grow_with_precision_and_shrink_with_the_plan(
    fused: Callable[[str, bool], Path],
) -> None:
    needed = needs(read_bundle(fused("v1.1", True)), torch.bfloat16)
    assert list(needed) == ["bfloat16", "int8", "fp8"]
    for plans in needed.values():
        assert plans["none"] >= plans["text"] >= plans["group"]
        assert plans["none"] >= plans["model"]
    assert needed["bfloat16"]["none"] > needed["int8"]["none"]
    weights = needs(read_bundle(fused("v1.1", True)), torch.float32)["float32"]["none"]
    assert weights - needed["bfloat16"]["none"] > 800_315 * 2  # two bytes more a parameter


def test_offloading_is_refused_where_there_is_no_cuda(fused: Callable[[str, bool], Path]) -> None:
    where = (torch.device("cpu"), read_bundle(fused("v1.1", True)), torch.float32)
    assert plan_for("auto", *where) == "none"
    with pytest.raises(SettingError, match="DREAM_O_OFFLOAD='group'"):
        plan_for("group", *where)


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    fused: Callable[[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**6, 10**6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(DreamOPipeline, "from_pretrained", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=r"not enough GPU memory: 0\.0 GB free"):
        DreamO.load(Settings(device="cuda"), fused("v1.1", True))


def parameter_counts(pipeline: DreamOPipeline) -> dict[str, int]:
    """Parameters by model; one that stands in two places counts once."""
    return {
        name: sum(parameter.numel() for parameter in model.parameters())
        for name, model in pipeline.components.items()
        if isinstance(model, torch.nn.Module)
    }


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_does_not_change_the_latents(
    plan: str, precision: str, fused: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    # The moves themselves are made between the CPU and itself here; their order is the same.
    def latents(pipeline: DreamOPipeline, **options: Any) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(1)
        return pipeline(
            "a dog",
            height=64,
            width=64,
            num_inference_steps=2,
            generator=generator,
            output_type="latent",
            **options,
        ).images

    bundle = fused("v1.1", True)
    if precision == "int8":
        bundle = tmp_path / "int8"
        quantize(fused("v1.1", True), "int8", bundle)
    placed = DreamOPipeline.from_pretrained(bundle, torch_dtype=torch.float32)
    apply_plan(placed, plan, torch.device("cpu"))
    streamed = {
        name: any(hasattr(module, "_diffusers_hook") for module in model.modules())
        for name, model in placed.components.items()
        if isinstance(model, torch.nn.Module)
    }
    assert streamed["text_encoder_2"] == (plan in ("text", "group"))
    assert streamed["transformer"] == (plan == "group")
    as_loaded = DreamOPipeline.from_pretrained(bundle, torch_dtype=torch.float32)
    # Tied parameters, as T5's embedding is, stay tied: apart they would take their memory twice.
    assert parameter_counts(placed) == parameter_counts(as_loaded)
    expected = latents(as_loaded)
    assert torch.equal(latents(placed), expected)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        latents(placed, callback_on_step_end=fail)
    assert torch.equal(latents(placed), expected)
