"""Fusing: the sums, the files, and what happens if something does not fit or a run is stopped."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dream_o.errors import BundleError
from dream_o.weights.build.fuse import fuse
from dream_o.weights.build.recipe import Adapter, low_ranks, recipe
from dream_o.weights.format.bundle import is_bundle, read_bundle
from dream_o.weights.format.load import load_components
from tests.conftest import PARITY
from tests.forked import Forked, run_code

BASE, ADAPTERS = PARITY / "base", PARITY / "adapters"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
Fused = Callable[[str, bool], Path]


def expected_transformer(steps: tuple[Adapter, ...], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The base's tensors plus every product, in float32, rounded once."""
    weights = {name: tensor.float() for name, tensor in load_file(BASE / TRANSFORMER).items()}
    for step in steps:
        tensors = load_file(ADAPTERS / step.file)
        for low_rank in low_ranks(step, tensors):
            up, down = tensors[low_rank.up], tensors[low_rank.down]
            rows = up.chunk(low_rank.parts)[low_rank.part]
            weights[f"{low_rank.module}.weight"] += step.weight * (rows @ down)
    return {name: tensor.to(dtype) for name, tensor in weights.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("version", "turbo"), [("v1.1", True), ("v1", False)])
def test_the_result_is_the_float32_sum_rounded_once(
    version: str, turbo: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    fuse(BASE, ADAPTERS, version, tmp_path / "bundle", turbo=turbo, dtype=dtype)
    fused = load_file(tmp_path / "bundle" / TRANSFORMER)
    expected = expected_transformer(recipe(version, turbo), dtype)
    assert fused.keys() - expected.keys() == {"task_embedding.weight", "idx_embedding.weight"}
    for name, tensor in expected.items():
        assert fused[name].dtype == dtype
        assert torch.equal(fused[name], tensor), name


def test_the_embedding_tables_are_saved_with_the_transformer(fused: Fused) -> None:
    tables = load_file(ADAPTERS / "dreamo.safetensors")
    weights = load_file(fused("v1.1", True) / TRANSFORMER)
    assert torch.equal(weights["task_embedding.weight"], tables["dreamo_task_embedding.weight"])
    assert torch.equal(weights["idx_embedding.weight"], tables["dreamo_idx_embedding.weight"])


def test_t5_is_cut_to_its_tokenizer_and_gains_the_last_ten_rows(fused: Fused) -> None:
    bundle = fused("v1.1", True)
    matrix = load_file(bundle / "text_encoder_2/model.safetensors")["shared.weight"]
    base = load_file(BASE / "text_encoder_2/model.safetensors")["shared.weight"]
    rows = load_file(ADAPTERS / "dreamo.safetensors")["dreamo_t5_embedding.weight"]
    tokens = json.loads((BASE / "tokenizer_2/tokenizer.json").read_text())["model"]["vocab"]
    assert torch.equal(matrix, torch.cat([base[: len(tokens)], rows[-10:]]))
    config = json.loads((bundle / "text_encoder_2/config.json").read_text())
    assert config["vocab_size"] == len(tokens) + 10


def test_all_other_tensors_are_the_base_models(fused: Fused) -> None:
    for name in ("text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        base, bundle = load_file(BASE / name), load_file(fused("v1.1", True) / name)
        assert base.keys() == bundle.keys()
        assert all(torch.equal(base[key], bundle[key]) for key in base)


def test_bundle_json_lists_the_source_files(fused: Fused) -> None:
    bundle = read_bundle(fused("v1", False))
    assert (bundle.model_version, bundle.turbo, bundle.precision) == ("v1", False, "float32")
    assert "adapters/turbo.safetensors" not in bundle.sources
    assert "adapters/dreamo_quality_lora_neg.safetensors" in bundle.sources
    assert f"base/{TRANSFORMER}" in bundle.sources
    assert all(len(digest) == 64 for digest in bundle.sources.values())


def test_the_same_files_give_the_same_bytes(fused: Fused, tmp_path: Path) -> None:
    fuse(BASE, ADAPTERS, "v1.1", tmp_path / "again")
    assert read_bundle(tmp_path / "again") == read_bundle(fused("v1.1", True))


def shard(folder: Path, stem: str, count: int) -> None:
    """Splits a model's file into numbered shards with an index, like large models on the hub."""
    tensors = load_file(folder / f"{stem}.safetensors")
    (folder / f"{stem}.safetensors").unlink()
    weight_map = {}
    for number in range(count):
        name = f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"
        held = {key: tensors[key] for key in sorted(tensors)[number::count]}
        save_file(held, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of the base model, to change."""
    return Path(shutil.copytree(BASE, tmp_path / "base"))


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    """A copy of the adapters, to change."""
    return Path(shutil.copytree(ADAPTERS, tmp_path / "adapters"))


def test_a_sharded_base_gives_the_same_tensors(base: Path, fused: Fused, tmp_path: Path) -> None:
    shard(base / "transformer", "diffusion_pytorch_model", 3)
    shard(base / "text_encoder_2", "model", 2)
    fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")
    for name in (TRANSFORMER, "text_encoder_2/model.safetensors"):
        one, other = load_file(tmp_path / "bundle" / name), load_file(fused("v1.1", True) / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_large_models_are_written_as_shards_that_load(
    tmp_path: Path, fused: Fused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dream_o.weights.format.tensors.SHARD", 500_000)
    fuse(BASE, ADAPTERS, "v1.1", tmp_path / "bundle")
    shards = sorted((tmp_path / "bundle/transformer").glob("*.safetensors"))
    assert len(shards) > 3
    assert all(path.stat().st_size < 600_000 for path in shards)
    one = load_components(tmp_path / "bundle")["transformer"].state_dict()
    other = load_file(fused("v1.1", True) / TRANSFORMER)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def change(path: Path, **changes: torch.Tensor | None) -> None:
    """Sets or removes tensors of a safetensors file."""
    tensors = load_file(path) | changes
    save_file({key: value for key, value in tensors.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("stray.weight", torch.ones(1), "dreamo.safetensors: key stray.weight is not known"),
        (
            "double_blocks_9_processor.proj_lora1.down.weight",
            torch.ones(4, 64),
            "dreamo.safetensors: key double_blocks_9_processor.proj_lora1.down.weight "
            "has no up factor",
        ),
        (
            "double_blocks_0_processor.proj_lora1.up.weight",
            torch.ones(65, 4),
            "dreamo.safetensors: double_blocks_0_processor.proj_lora1.up.weight makes [65, 64], "
            "but transformer_blocks.0.attn.to_out.0.weight of the base model is [64, 64]",
        ),
        (
            "double_blocks_0_processor.proj_lora1.down.weight",
            torch.ones(5, 64),
            "dreamo.safetensors: double_blocks_0_processor.proj_lora1.up.weight [64, 4] does not "
            "fit double_blocks_0_processor.proj_lora1.down.weight [5, 64]",
        ),
        (
            "dreamo_task_embedding.weight",
            torch.ones(3, 64),
            "dreamo.safetensors: dreamo_task_embedding.weight [3, 64] does not fit the base model",
        ),
        (
            "dreamo_t5_embedding.weight",
            None,
            "dreamo.safetensors: key dreamo_t5_embedding.weight is missing",
        ),
    ],
)
def test_a_key_that_does_not_fit_is_named_before_anything_is_written(
    key: str, tensor: torch.Tensor | None, message: str, adapters: Path, tmp_path: Path
) -> None:
    change(adapters / "dreamo.safetensors", **{key: tensor})
    with pytest.raises(BundleError) as raised:
        fuse(BASE, adapters, "v1.1", tmp_path / "bundle")
    assert str(raised.value) == message
    assert not list(tmp_path.glob("*bundle*"))


def test_an_adapter_for_a_module_that_the_base_lacks_is_named(
    adapters: Path, tmp_path: Path
) -> None:
    added = {
        f"transformer.transformer_blocks.7.attn.to_q.lora_{end}.weight": torch.ones(shape)
        for end, shape in {"A": (4, 64), "B": (64, 4)}.items()
    }
    change(adapters / "turbo.safetensors", **added)
    with pytest.raises(BundleError, match=r"turbo\.safetensors.*transformer_blocks\.7\.attn\.to_q"):
        fuse(BASE, adapters, "v1.1", tmp_path / "bundle")


@pytest.mark.parametrize(
    "missing",
    ["transformer/config.json", TRANSFORMER, "tokenizer_2/tokenizer.json", "vae/config.json"],
)
def test_a_missing_file_of_the_base_is_named(missing: str, base: Path, tmp_path: Path) -> None:
    (base / missing).unlink()
    with pytest.raises(BundleError, match=missing.replace(".", r"\.")):
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")


def test_a_missing_adapter_is_named(adapters: Path, tmp_path: Path) -> None:
    (adapters / "v1.1/dreamo_sft_lora.safetensors").unlink()
    with pytest.raises(BundleError, match=r"v1\.1/dreamo_sft_lora\.safetensors is missing"):
        fuse(BASE, adapters, "v1.1", tmp_path / "bundle")


def test_a_pickle_in_place_of_safetensors_is_not_opened(base: Path, tmp_path: Path) -> None:
    (base / "vae/diffusion_pytorch_model.safetensors").rename(
        base / "vae/diffusion_pytorch_model.bin"
    )
    with pytest.raises(BundleError, match="only safetensors files are opened"):
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")


def test_a_file_cut_short_is_named(base: Path, tmp_path: Path) -> None:
    path = base / TRANSFORMER
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"diffusion_pytorch_model\.safetensors is cut short"):
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fuse(BASE, ADAPTERS, "v1.1", tmp_path / "bundle", progress=stop)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from dream_o.weights.build.fuse import fuse

base, adapters, output, share = sys.argv[1:]

def stop(done, total):
    if done >= float(share) * total:
        os.kill(os.getpid(), signal.SIGKILL)

fuse(Path(base), Path(adapters), "v1.1", Path(output), progress=stop)
"""


def test_a_killed_run_leaves_no_bundle_and_the_next_run_removes_the_rest(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path / "bundle"
    arguments = [str(BASE), str(ADAPTERS), str(output), "0.6"]
    logs = tmp_path_factory.mktemp("logs")
    killed = Forked(run_code, KILLED, arguments, logs=logs, folder=tmp_path)
    assert killed.wait() == -signal.SIGKILL, killed.told
    (leftover,) = tmp_path.iterdir()
    assert not is_bundle(output)
    assert not is_bundle(leftover)
    fuse(BASE, ADAPTERS, "v1.1", output)
    assert list(tmp_path.iterdir()) == [output]
    assert read_bundle(output).model_version == "v1.1"


def test_a_bundle_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    fuse(BASE, ADAPTERS, "v1.1", tmp_path / "bundle")
    fuse(BASE, ADAPTERS, "v1", tmp_path / "bundle")
    assert read_bundle(tmp_path / "bundle").model_version == "v1"
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_bytes(b"dear to me")
    with pytest.raises(BundleError, match="photos exists and is not a bundle"):
        fuse(BASE, ADAPTERS, "v1.1", tmp_path / "photos")
    assert (tmp_path / "photos/one.jpg").read_bytes() == b"dear to me"


def deeper_t5(base: Path) -> None:
    """Writes a wrong number of layers into T5's configuration."""
    path = base / "text_encoder_2/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 3}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda base: change(base / TRANSFORMER, **{"proj_out.weight": None}),
            "transformer: proj_out.weight is missing from the base model",
        ),
        (
            lambda base: change(base / TRANSFORMER, stray=torch.ones(1)),
            "transformer: stray does not belong in a model of its config.json",
        ),
        (
            lambda base: change(
                base / "vae/diffusion_pytorch_model.safetensors",
                **{"decoder.conv_in.bias": torch.ones(3)},
            ),
            "vae: decoder.conv_in.bias is [3], but its config.json asks for [",
        ),
        (
            lambda base: change(
                base / "text_encoder/model.safetensors",
                **{"text_model.final_layer_norm.weight": None},
            ),
            "text_encoder: final_layer_norm.weight is missing from the base model",
        ),
        (deeper_t5, "text_encoder_2: encoder.block.2."),
        (
            lambda base: (base / "vae/config.json").write_text("{"),
            "vae/config.json of the base model cannot be read",
        ),
        (
            lambda base: (base / "text_encoder_2/config.json").write_text('{"d_model": "wide"}'),
            "text_encoder_2/config.json is not the configuration of a T5EncoderModel",
        ),
    ],
)
def test_a_base_whose_tensors_do_not_fit_its_configurations_is_refused_before_anything_is_written(
    damage: Callable[[Path], object], message: str, base: Path, tmp_path: Path
) -> None:
    damage(base)
    with pytest.raises(BundleError) as raised:
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")
    assert str(raised.value).startswith(message)
    assert not list(tmp_path.glob("*bundle*"))


def test_buffers_of_older_files_and_both_names_of_t5_s_matrix_are_accepted(
    base: Path, tmp_path: Path
) -> None:
    change(
        base / "text_encoder/model.safetensors",
        **{"text_model.embeddings.position_ids": torch.arange(77)[None]},
    )
    path = base / "text_encoder_2/model.safetensors"
    change(path, **{"encoder.embed_tokens.weight": load_file(path)["shared.weight"].clone()})
    fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")
    assert load_components(tmp_path / "bundle")["text_encoder"] is not None


def test_an_index_that_is_wrong_about_a_tensor_is_refused(base: Path, tmp_path: Path) -> None:
    shard(base / "transformer", "diffusion_pytorch_model", 3)
    index = base / "transformer/diffusion_pytorch_model.safetensors.index.json"
    right = json.loads(index.read_text())
    first, second, *_ = sorted(set(right["weight_map"].values()))
    weight_map = right["weight_map"] | {"proj_out.weight": first, "x_embedder.weight": second}
    moved = {key for key in weight_map if weight_map[key] != right["weight_map"][key]}
    index.write_text(json.dumps(right | {"weight_map": weight_map}))
    with pytest.raises(BundleError, match="does not contain") as raised:
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")
    assert any(key in str(raised.value) for key in moved)
    index.write_text(json.dumps(right))
    change(base / "transformer" / first, **load_file(base / "transformer" / second))
    with pytest.raises(BundleError, match=f"is in both {first} and {second}"):
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")


@pytest.mark.parametrize("name", ["", "..", "../other.safetensors"])
def test_an_index_must_not_name_files_outside_its_folder(
    name: str, base: Path, tmp_path: Path
) -> None:
    index = base / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"proj_out.weight": name}}))
    with pytest.raises(BundleError, match="names a file outside its folder"):
        fuse(base, ADAPTERS, "v1.1", tmp_path / "bundle")
