"""Adapter layouts and recipes."""

import pytest
import torch

from dream_o.errors import BundleError
from dream_o.weights.build.recipe import EXTRA_TOKENS, RECIPES, Adapter, low_ranks, recipe

DREAMO = Adapter("dreamo.safetensors", "dreamo", 1.0)
DIFFUSERS = Adapter("turbo.safetensors", "diffusers", 1.0)


def test_recipes_are_those_of_the_release() -> None:
    weights = {
        version: [(step.file, step.weight) for step in recipe(version, turbo=True)]
        for version in RECIPES
    }
    common = [
        ("dreamo.safetensors", 1.0),
        ("dreamo_cfg_distill.safetensors", 1.0),
        ("turbo.safetensors", 1.0),
    ]
    assert weights == {
        "v1.1": [
            *common,
            ("v1.1/dreamo_sft_lora.safetensors", 1.0),
            ("v1.1/dreamo_dpo_lora.safetensors", 1.25),
        ],
        "v1": [
            *common,
            ("dreamo_quality_lora_pos.safetensors", 0.15),
            ("dreamo_quality_lora_neg.safetensors", -0.8),
        ],
    }


def test_turbo_can_be_left_out_of_every_version() -> None:
    for version in RECIPES:
        assert "turbo.safetensors" not in {step.file for step in recipe(version, turbo=False)}


def test_an_unknown_version_is_named_with_those_that_exist() -> None:
    with pytest.raises(BundleError, match=r"'v2'.*v1\.1 or v1"):
        recipe("v2", turbo=True)


def test_the_ten_tokens_are_the_nine_slots_and_res() -> None:
    assert EXTRA_TOKENS[0] == "[ref#1]"
    assert EXTRA_TOKENS[8:] == ("[ref#9]", "[res]")
    assert len(EXTRA_TOKENS) == 10


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        (
            "double_blocks_3_processor.qkv_lora1",
            [f"transformer_blocks.3.attn.{x}" for x in ("to_q", "to_k", "to_v")],
        ),
        (
            "double_blocks_3_processor.qkv_lora2",
            [f"transformer_blocks.3.attn.{x}" for x in ("add_q_proj", "add_k_proj", "add_v_proj")],
        ),
        ("double_blocks_18.proj_lora1", ["transformer_blocks.18.attn.to_out.0"]),
        ("double_blocks_18.proj_lora2", ["transformer_blocks.18.attn.to_add_out"]),
        (
            "single_blocks_37_processor.qkv_lora",
            [f"single_transformer_blocks.37.attn.{x}" for x in ("to_q", "to_k", "to_v")],
        ),
        ("single_blocks_37_processor.proj_lora", ["single_transformer_blocks.37.proj_out"]),
    ],
)
def test_dreamo_names_stand_for_diffusers_modules(name: str, modules: list[str]) -> None:
    found = low_ranks(DREAMO, [f"{name}.down.weight", f"{name}.up.weight"])
    assert [low_rank.module for low_rank in found] == modules
    assert [low_rank.part for low_rank in found] == list(range(len(modules)))


def test_a_qkv_factor_is_split_along_its_rows_in_the_order_q_k_v() -> None:
    tensors = {
        "double_blocks_0_processor.qkv_lora1.down.weight": torch.randn(2, 5),
        "double_blocks_0_processor.qkv_lora1.up.weight": torch.randn(12, 2),
    }
    down, up = tensors.values()
    for part, low_rank in enumerate(low_ranks(DREAMO, tensors)):
        expected = up[4 * part : 4 * part + 4] @ down
        assert torch.equal(low_rank.delta(tensors.__getitem__), expected)


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("ends", [("lora_A", "lora_B"), ("lora_down", "lora_up")])
def test_diffusers_names_are_the_modules_themselves(prefix: str, ends: tuple[str, str]) -> None:
    keys = [f"{prefix}transformer_blocks.0.ff.net.0.proj.{end}.weight" for end in ends]
    (low_rank,) = low_ranks(DIFFUSERS, keys)
    assert low_rank.module == "transformer_blocks.0.ff.net.0.proj"
    assert (low_rank.down, low_rank.up) == (keys[0], keys[1])


def test_alpha_replaces_the_rank_as_the_scale() -> None:
    tensors = {
        "proj_out.lora_A.weight": torch.randn(4, 3),
        "proj_out.lora_B.weight": torch.randn(2, 4),
        "proj_out.alpha": torch.tensor(2.0),
    }
    (low_rank,) = low_ranks(DIFFUSERS, tensors)
    expected = (tensors["proj_out.lora_B.weight"] @ tensors["proj_out.lora_A.weight"]) * 0.5
    assert torch.equal(low_rank.delta(tensors.__getitem__), expected)


@pytest.mark.parametrize(
    ("adapter", "key"),
    [
        (DREAMO, "double_blocks_0_processor.qkv_lora3.down.weight"),
        (DREAMO, "single_blocks_0_processor.qkv_lora1.down.weight"),
        (DREAMO, "transformer.proj_out.lora_A.weight"),
        (DIFFUSERS, "transformer.proj_out.lora_magnitude_vector.weight"),
        (DIFFUSERS, "transformer.proj_out.lora_B.bias"),
    ],
)
def test_an_unknown_key_is_named_with_its_file(adapter: Adapter, key: str) -> None:
    with pytest.raises(BundleError) as raised:
        low_ranks(adapter, [key])
    assert str(raised.value) == f"{adapter.file}: key {key} is not known"


def test_a_factor_without_its_partner_is_named() -> None:
    with pytest.raises(BundleError, match=r"key proj_out\.lora_A\.weight has no up factor"):
        low_ranks(DIFFUSERS, ["proj_out.lora_A.weight"])


def test_factors_that_do_not_fit_each_other_are_named() -> None:
    tensors = {"a.lora_A.weight": torch.ones(4, 3), "a.lora_B.weight": torch.ones(2, 5)}
    (low_rank,) = low_ranks(DIFFUSERS, tensors)
    with pytest.raises(BundleError, match=r"a\.lora_B\.weight.*a\.lora_A\.weight"):
        low_rank.delta(tensors.__getitem__)
