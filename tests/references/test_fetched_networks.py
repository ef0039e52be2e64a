"""Reference networks that setup downloads, from their own repositories or from a named one."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dream_o.errors import BundleError, SettingError
from dream_o.references.networks import FILES
from dream_o.service import backend
from dream_o.service.backend import ready_backend
from dream_o.weights.fetch.hub import find
from tests.weights.hub_server import Hub, serving

CONTENTS = {name: f"network {name}".encode() * 100 for name in FILES}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder without networks, and a manifest with the digests of CONTENTS."""
    entries = ", ".join(
        f'{{ path = "{name}", sha256 = "{hashlib.sha256(content).hexdigest()}" }}'
        for name, content in CONTENTS.items()
    )
    manifest = tmp_path / "manifest.toml"
    manifest.write_text(
        '[networks]\ntitle = "-"\nrepository = "maker/networks"\nrevision = "main"\n'
        'licence = "MIT"\nfolder = "references"\ngroup = "references"\noptional = true\n'
        f"files = [{entries}]\n"
    )
    folder = tmp_path / "weights"
    monkeypatch.setattr(backend, "MANIFEST", manifest)
    monkeypatch.setattr(backend, "WEIGHTS", folder)
    monkeypatch.setattr(backend, "REFERENCE_NETWORKS", folder / "references")
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The networks in their own repository, and in a folder of another one."""
    files = {f"maker/networks/{name}": content for name, content in CONTENTS.items()}
    files |= {f"me/dreamo/references/{name}": content for name, content in CONTENTS.items()}
    with serving(Hub(files)) as running:
        monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: running.url)
        yield running


@pytest.mark.parametrize("choice", ["fetch", "hf://me/dreamo@main/references"])
def test_they_are_downloaded_once_and_used(hub: Hub, weights: Path, choice: str) -> None:
    assert ready_backend(choice, "cpu").name == "networks"
    for name, content in CONTENTS.items():
        assert (weights / "references" / name).read_bytes() == content
    hub.requests.clear()
    assert ready_backend(choice, "cpu").name == "networks"
    assert not hub.requests


def test_another_repository_cannot_put_other_networks_in_their_place(
    hub: Hub, weights: Path
) -> None:
    hub.files[f"me/dreamo/references/{FILES[0]}"] = b"another"
    with pytest.raises(BundleError, match="is not the file that was expected"):
        ready_backend("hf://me/dreamo/references", "cpu")
    assert not (weights / "references" / FILES[0]).exists()


def test_without_being_asked_nothing_is_downloaded(hub: Hub, weights: Path) -> None:
    assert find("maker/networks", FILES[0], "main").bytes
    hub.requests.clear()
    assert ready_backend("auto", "cpu").name == "offline"
    with pytest.raises(SettingError, match="DREAM_O_REFERENCES"):
        ready_backend("networks", "cpu")
    assert not hub.requests
