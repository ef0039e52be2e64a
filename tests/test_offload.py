"""Offloading plans: the one that streams least of those that fit, and what is said of it."""

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dream_o.errors import SettingError, UserError
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime import offload
from dream_o.runtime.memory_needs import Sizes, by_plan, needs, sizes_of, streamed_blocks
from dream_o.runtime.offload import choose_placement, explanation, placement_for
from dream_o.runtime.plans import PLANS, Placement
from dream_o.service.generator import DreamO
from dream_o.service.settings import OFFLOADS, Settings
from dream_o.weights.format.bundle import read_bundle

GB = 10**9
# FLUX.1-dev's sizes, rounded.
BFLOAT16 = Sizes(
    fixed=2 * GB,
    t5=(GB // 2,) * 20,
    modulation=(GB // 10,) * 60,
    doubles=(GB // 2,) * 19,
    singles=(GB // 4,) * 38,
    working={"references": GB, "denoising": GB, "decoding": 2 * GB},
    working_in_strips={"references": GB // 2, "denoising": GB, "decoding": GB},
)
INT8 = Sizes(
    fixed=2 * GB,
    t5=(GB // 4,) * 20,
    modulation=(GB // 20,) * 60,
    doubles=(GB // 4,) * 19,
    singles=(GB // 8,) * 38,
    working={"references": GB, "denoising": GB, "decoding": 2 * GB},
    working_in_strips={"references": GB // 2, "denoising": GB, "decoding": GB},
)
NEEDED = {"bfloat16": BFLOAT16, "int8": INT8}
HOST = 64 * GB


@pytest.mark.parametrize(
    ("free", "plan"),
    # 39 GB in all; without T5 30, without the modulation 24; slots of two blocks take 1 GB.
    [(80, "none"), (39, "none"), (32, "text"), (30, "text"), (24, "modulation"), (23, "blocks")],
)
def test_the_plan_that_streams_least_of_those_that_fit_is_chosen(free: int, plan: str) -> None:
    assert choose_placement("auto", None, NEEDED, free * GB, HOST).plan == plan


@pytest.mark.parametrize("free", [23, 20, 16, 12, 8])
def test_as_many_blocks_stay_as_fit(free: int) -> None:
    chosen = choose_placement("auto", None, NEEDED, free * GB, HOST)
    assert BFLOAT16.needed(chosen) <= free * GB
    assert chosen.streamed_blocks % 2 == 0
    one_less = Placement("blocks", chosen.streamed_blocks - 2)
    assert chosen.streamed_blocks == 2 or BFLOAT16.needed(one_less) > free * GB


def test_single_blocks_are_streamed_first_and_are_spread_evenly() -> None:
    assert streamed_blocks(19, 38, 0) == ([], [])
    doubles, singles = streamed_blocks(19, 38, 12)
    assert doubles == []
    assert {b - a for a, b in itertools.pairwise(singles)} <= {3, 4}
    doubles, singles = streamed_blocks(19, 38, 56)
    assert (len(doubles), singles) == (18, list(range(38)))


def test_settings_force_a_plan_and_the_blocks_that_stay() -> None:
    assert choose_placement("none", None, NEEDED, 39 * GB, HOST) == Placement("none")
    assert choose_placement("text", None, NEEDED, 80 * GB, HOST) == Placement("text")
    assert choose_placement("blocks", None, NEEDED, 80 * GB, HOST) == Placement("blocks", 2)
    assert choose_placement("blocks", None, NEEDED, 1 * GB, HOST) == Placement("blocks", 56, True)
    for resident, streamed in ((57, 0), (40, 18), (41, 16), (0, 56)):
        chosen = choose_placement("blocks", resident, NEEDED, 80 * GB, HOST)
        assert chosen == Placement("blocks", streamed)


def test_when_nothing_fits_the_numbers_and_the_way_out_are_told() -> None:
    with pytest.raises(UserError) as raised:
        choose_placement("auto", None, NEEDED, 4 * GB, HOST)
    assert str(raised.value) == (
        "not enough GPU memory: 4.0 GB free, 39.0 GB needed, 4.5 GB with everything streamed; "
        "a bundle in int8 would fit with DREAM_O_OFFLOAD=blocks "
        "(dream-o weights quantize BUNDLE --to int8 --output BUNDLE2)"
    )
    with pytest.raises(UserError, match="use a machine with more memory"):
        choose_placement("auto", None, NEEDED, 1 * GB, HOST)


def test_the_vae_works_in_strips_only_where_nothing_else_fits() -> None:
    assert not choose_placement("auto", None, NEEDED, 6 * GB, HOST).strips
    chosen = choose_placement("auto", None, NEEDED, 5 * GB, HOST)
    assert chosen == Placement("blocks", 56, strips=True)
    assert "the VAE works in strips" in explanation(chosen, NEEDED, 5 * GB, HOST, 20e9)


def test_a_plan_must_also_fit_into_host_memory() -> None:
    with pytest.raises(UserError) as raised:
        choose_placement("auto", None, NEEDED, 24 * GB, 12 * GB)
    assert str(raised.value) == (
        "not enough memory: with 24.0 GB of GPU memory free, 16.0 GB of weights would be streamed "
        "from host memory, of which 12.0 GB are available; a bundle in int8 "
        "would fit with DREAM_O_OFFLOAD=none "
        "(dream-o weights quantize BUNDLE --to int8 --output BUNDLE2)"
    )
    assert choose_placement("auto", None, NEEDED, 80 * GB, 1 * GB) == Placement("none")


def test_one_line_says_what_was_chosen_what_it_costs_and_what_would_avoid_it() -> None:
    line = explanation(Placement("blocks", 12), NEEDED, 22 * GB, HOST, 20e9)
    assert "\n" not in line
    assert line.startswith("blocks (")
    assert "22.0 GB free" in line
    assert "16.0 GB copied once a request (0.8 s at 20.0 GB/s)" in line
    assert "3.0 GB in every step, for 12 of 57 blocks (0.15 s" in line
    assert "19.0 GB of the host's 64.0 GB are used" in line
    assert "a bundle in int8 would stay on the GPU (dream-o weights quantize" in line
    assert explanation(Placement("none"), NEEDED, 80 * GB, HOST, 20e9).count(";") == 1


def test_the_setting_s_values_are_the_plans() -> None:
    assert ("auto", *PLANS) == OFFLOADS
    assert Settings.from_environ({"DREAM_O_RESIDENT_BLOCKS": "12"}).resident_blocks == 12
    assert Settings.from_environ({}).resident_blocks is None
    with pytest.raises(SettingError, match="DREAM_O_RESIDENT_BLOCKS='-1' is not allowed"):
        Settings.from_environ({"DREAM_O_RESIDENT_BLOCKS": "-1"})


def test_only_the_largest_phase_counts() -> None:
    phases = {"references": 5, "denoising": 7, "decoding": 6}
    in_strips = {"references": 1, "denoising": 3, "decoding": 2}
    sizes = sizes_of({"vae": {"decoder.weight": 100}}, (phases, in_strips))
    assert sizes.needed(Placement("none")) == sizes.fixed + 7
    assert sizes.needed(Placement("none", strips=True)) == sizes.fixed + 3


def test_every_tensor_of_the_parity_model_is_counted_once_in_its_unit(
    fused: Callable[[str, bool], Path],
) -> None:
    bundle = fused("v1.1", True)
    sizes = needs(read_bundle(bundle), torch.float32)["float32"]
    pipeline = DreamOPipeline.from_pretrained(bundle)
    units = {
        "t5": pipeline.text_encoder_2.encoder.block,
        "modulation": pipeline.transformer.modulation_layers(),
        "doubles": pipeline.transformer.transformer_blocks,
        "singles": pipeline.transformer.single_transformer_blocks,
    }

    def size(module: torch.nn.Module) -> int:
        return sum(each.nbytes for each in module.parameters())

    modulation = sum(map(size, units["modulation"]))
    last = size(pipeline.transformer.norm_out)
    for name in ("t5", "modulation"):
        assert sorted(getattr(sizes, name)) == sorted(map(size, units[name]))
    blocks = sum(map(size, [*units["doubles"], *units["singles"]]))
    assert sum(sizes.doubles) + sum(sizes.singles) == blocks - (modulation - last)
    assert [len(sizes.doubles), len(sizes.singles)] == [
        len(units["doubles"]),
        len(units["singles"]),
    ]


def test_needs_grow_with_precision_and_shrink_with_the_plan(
    fused: Callable[[str, bool], Path],
) -> None:
    needed = {
        kind: by_plan(sizes)
        for kind, sizes in needs(read_bundle(fused("v1.1", True)), torch.bfloat16).items()
    }
    assert list(needed)[:3] == ["bfloat16", "int8", "fp8"]
    assert needed["bfloat16"]["none"] > needed["int8"]["none"]
    float32 = needs(read_bundle(fused("v1.1", True)), torch.float32)["float32"]
    # Two bytes more a parameter.
    assert float32.needed(Placement("none")) - needed["bfloat16"]["none"] > 800_315 * 2


def test_offloading_is_refused_where_there_is_no_cuda(fused: Callable[[str, bool], Path]) -> None:
    where = (None, torch.device("cpu"), read_bundle(fused("v1.1", True)), torch.float32)
    assert placement_for("auto", *where) == Placement("none")
    with pytest.raises(SettingError, match="DREAM_O_OFFLOAD='blocks'"):
        placement_for("blocks", *where)


def test_the_choice_is_logged_before_anything_is_loaded(
    fused: Callable[[str, bool], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (24 * GB, 24 * GB))
    monkeypatch.setattr(offload, "transfer_rate", lambda _: 20e9)
    caplog.set_level(logging.INFO)
    bundle = read_bundle(fused("v1.1", True))
    chosen = placement_for("text", None, torch.device("cuda"), bundle, torch.bfloat16)
    assert chosen == Placement("text")
    assert "offloading: text (T5 is copied to the GPU once for each new prompt);" in caplog.text


def test_a_plan_is_compared_with_available_host_memory(
    fused: Callable[[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = (None, torch.device("cuda"), read_bundle(fused("v1.1", True)), torch.bfloat16)
    monkeypatch.setattr(offload, "needs", lambda *_: NEEDED)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (30 * GB, 30 * GB))
    monkeypatch.setattr(offload, "transfer_rate", lambda _: 20e9)
    monkeypatch.setattr(offload, "available_memory", lambda: 10 * GB)  # the size of T5
    assert placement_for("auto", *where) == Placement("text")
    monkeypatch.setattr(offload, "available_memory", lambda: 10 * GB - 1)
    with pytest.raises(UserError, match="would be streamed from host memory"):
        placement_for("auto", *where)


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    fused: Callable[[str, bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**6, 10**6))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(DreamOPipeline, "from_pretrained", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=r"not enough GPU memory: 0\.0 GB free"):
        DreamO.load(Settings(device="cuda"), fused("v1.1", True))
