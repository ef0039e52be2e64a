"""Bundles from a hub or a web server: downloaded once, completely, or refused with one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dream_o.errors import BundleError
from dream_o.weights.fetch.address import HubAddress, parse_repository
from dream_o.weights.fetch.hub import STAGING
from dream_o.weights.fetch.remote_bundle import fetch_bundle
from dream_o.weights.format.bundle import check_file, read_bundle
from dream_o.weights.format.digests import sha256
from tests.weights.hub_server import Hub


@pytest.mark.parametrize(
    ("reference", "parsed"),
    [
        ("hf://me/dreamo", HubAddress("me/dreamo")),
        ("hf://me/dreamo@v2.0", HubAddress("me/dreamo", "v2.0")),
        ("hf://me/dreamo@refs/pr/1", HubAddress("me/dreamo", "refs/pr/1")),
    ],
)
def test_addresses_on_the_hub(reference: str, parsed: HubAddress) -> None:
    assert parse_repository(reference) == parsed


@pytest.mark.parametrize("reference", ["hf://me", "hf://me/a/b", "hf://me/..//x", "hf://me/a@"])
def test_an_invalid_address_is_refused(reference: str) -> None:
    with pytest.raises(BundleError, match="hf://owner/repository"):
        parse_repository(reference)


@pytest.fixture
def bundle_hub(hub: Hub, fused: Callable[[str, bool], Path]) -> Hub:
    """A hub with a bundle, as a user uploads it."""
    bundle = fused("v1.1", True)
    hub.files |= {
        f"me/dreamo/{path.relative_to(bundle).as_posix()}": path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    hub.files["me/dreamo/README.md"] = b"mine"
    return hub


def test_a_bundle_is_fetched_once(bundle_hub: Hub, folder: Path) -> None:
    from dream_o.weights.format.load import load_components

    bundle = fetch_bundle("hf://me/dreamo", folder).folder
    assert load_components(bundle)["transformer"] is not None
    bundle_hub.requests.clear()
    assert fetch_bundle("hf://me/dreamo", folder).folder == bundle
    assert not bundle_hub.requests
    assert {path.name for path in (folder / STAGING).iterdir()} == {"me--dreamo@main.lock"}


@pytest.mark.parametrize("on_web", [False, True], ids=["hub", "web"])
def test_a_bundle_that_changed_after_an_interrupted_download_is_downloaded_completely(
    bundle_hub: Hub, folder: Path, fused: Callable[[str, bool], Path], on_web: bool
) -> None:
    reference = f"{bundle_hub.url}/me/dreamo/resolve/main" if on_web else "hf://me/dreamo"
    name = "transformer/diffusion_pytorch_model.safetensors"
    bundle_hub.wrong = {f"me/dreamo/{name}"}
    with pytest.raises(BundleError, match="not the file that was expected"):
        fetch_bundle(reference, folder)
    assert list((folder / STAGING).rglob("whole/*/*.json"))
    bundle_hub.wrong = set()
    other = fused("v1", True)  # the same sizes, other numbers
    for path in read_bundle(other).files:
        content = (other / path).read_bytes()
        assert len(content) == len(bundle_hub.files[f"me/dreamo/{path}"])
        bundle_hub.files[f"me/dreamo/{path}"] = content
    bundle_hub.files["me/dreamo/bundle.json"] = (other / "bundle.json").read_bytes()
    fetched = fetch_bundle(reference, folder).folder
    assert read_bundle(fetched).model_version == "v1"
    for path, record in read_bundle(fetched).files.items():
        check_file(fetched, path, record)


def test_a_bundle_that_is_damaged_on_the_hub_is_not_installed(
    bundle_hub: Hub, folder: Path
) -> None:
    name = "me/dreamo/vae/diffusion_pytorch_model.safetensors"
    bundle_hub.wrong = {name}
    with pytest.raises(BundleError, match=r"vae/diffusion_pytorch_model\.safetensors of me/dreamo"):
        fetch_bundle("hf://me/dreamo", folder)
    assert not (folder / "hub").exists()
    bundle_hub.wrong = set()
    assert fetch_bundle("hf://me/dreamo@main", folder).verified


def test_a_bundle_json_that_names_a_file_outside_the_folder_is_refused(
    bundle_hub: Hub, folder: Path
) -> None:
    raw = json.loads(bundle_hub.files["me/dreamo/bundle.json"])
    raw["files"]["../../escaped"] = {"bytes": 1, "sha256": "0" * 64}
    bundle_hub.files["me/dreamo/bundle.json"] = json.dumps(raw).encode()
    with pytest.raises(BundleError, match="does not belong in a bundle"):
        fetch_bundle("hf://me/dreamo", folder)


def test_a_repository_without_a_bundle(hub: Hub, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"maker/base has no file bundle\.json"):
        fetch_bundle("hf://maker/base", folder)


def test_a_bundle_can_be_downloaded_from_any_web_server(bundle_hub: Hub, folder: Path) -> None:
    bundle = fetch_bundle(f"{bundle_hub.url}/me/dreamo/resolve/main", folder)
    assert read_bundle(bundle.folder).model_version == "v1.1"
    assert fetch_bundle(f"{bundle_hub.url}/me/dreamo/resolve/main/", folder) == bundle


def test_a_url_without_a_bundle(bundle_hub: Hub, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json"):
        fetch_bundle(f"{bundle_hub.url}/maker/base/resolve/main", folder)


def test_digests_are_computed_while_fetching_and_not_again_while_loading(
    bundle_hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dream_o.weights.format.load import load_components

    fetched = fetch_bundle("hf://me/dreamo", folder)
    hashed: list[str] = []

    def counting(path: Path, progress: object = None) -> str:
        hashed.append(path.name)
        return sha256(path)

    monkeypatch.setattr("dream_o.weights.format.bundle.sha256", counting)
    assert load_components(fetched)["transformer"] is not None
    assert not hashed
    # Another process, or a later setup, does not know this.
    later = fetch_bundle("hf://me/dreamo", folder)
    assert not later.verified
    load_components(later)
    assert set(hashed) == {name.rpartition("/")[2] for name in later.files}


def test_a_bundle_json_cannot_claim_that_it_was_verified(
    fused: Callable[[str, bool], Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(fused("v1.1", True), tmp_path / "copy"))
    raw = json.loads((copy / "bundle.json").read_text()) | {"verified": True}
    (copy / "bundle.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read"):
        read_bundle(copy)
