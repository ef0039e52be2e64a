"""A bundle's model card, licence and notice: they are correct, and a bundle loads without them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dream_o.weights.build.fuse import fuse
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.layout import DOCUMENTS
from dream_o.weights.format.load import load_components
from tests.conftest import PARITY

Fused = Callable[[str, bool], Path]


def front_matter(bundle: Path) -> dict:
    """The part of a model card that the hub reads."""
    _, head, _ = (bundle / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head)


@pytest.mark.parametrize(("version", "turbo"), [("v1.1", True), ("v1", False)])
def test_a_bundle_has_a_model_card_that_says_what_it_is(
    fused: Fused, version: str, turbo: bool
) -> None:
    bundle = fused(version, turbo)
    head = front_matter(bundle)
    assert head["license"] == "other"
    assert head["license_link"].startswith("https://huggingface.co/black-forest-labs/FLUX.1-dev/")
    assert head["base_model_relation"] == "merge"
    assert ("alimama-creative/FLUX.1-Turbo-Alpha" in head["base_model"]) is turbo
    text = (bundle / "README.md").read_text()
    assert f"# DreamO {version}, float32" in text
    for name, held in read_bundle(bundle).files.items():
        assert held.sha256 in text or not name.endswith(".safetensors")
    for digest in read_bundle(bundle).sources.values():
        assert digest in text


def test_a_quantized_bundle_says_so_and_keeps_the_licence(fused: Fused, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(fused("v1.1", True), source)
    (source / "LICENSE").write_text("the licence of whoever made this")
    quantize(source, "int8", tmp_path / "int8")
    assert front_matter(tmp_path / "int8")["base_model_relation"] == "quantized"
    assert "are stored as int8, those of T5 as" in (tmp_path / "int8/README.md").read_text()
    assert (tmp_path / "int8/LICENSE").read_text() == "the licence of whoever made this"


def test_the_base_models_licence_is_copied(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(PARITY / "base", base)
    (base / "LICENSE.md").write_text("the base model's own licence")
    fuse(base, PARITY / "adapters", "v1.1", tmp_path / "bundle")
    assert (tmp_path / "bundle/LICENSE").read_text() == "the base model's own licence"


def test_without_a_licence_the_bundle_says_where_it_is(fused: Fused) -> None:
    text = (fused("v1.1", True) / "LICENSE").read_text()
    assert "https://huggingface.co/black-forest-labs/FLUX.1-dev" in text


def test_a_bundle_loads_with_changed_documents_and_without_them(
    fused: Fused, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(fused("v1.1", True), bundle)
    (bundle / "README.md").write_text("edited on the hub")
    assert load_components(bundle)["transformer"] is not None
    for name in DOCUMENTS:
        (bundle / name).unlink()
    assert load_components(bundle)["transformer"] is not None
