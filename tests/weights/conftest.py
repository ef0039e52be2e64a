"""Fixtures: a hub on this machine, and a weights folder with a manifest for it."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weights.hub_server import Hub, serving

MANIFEST = """
[base]
title = "a base model"
repository = "maker/base"
revision = "main"
licence = "Open"
gated = true
folder = "base"
files = [{ path = "config.json" }, { path = "part/model.safetensors", size = 400000 }]

[turbo]
title = "an adapter"
repository = "other/turbo"
revision = "main"
licence = "Open"
optional = true
folder = "adapters"
files = [{ path = "model.safetensors", to = "turbo.safetensors" }]
"""
CONFIG, BASE = "maker/base/config.json", "maker/base/part/model.safetensors"
TURBO = "other/turbo/model.safetensors"


def contents() -> dict[str, bytes]:
    """The hub's files; the large one is longer than one block of the client."""
    rng = random.Random(0)
    return {CONFIG: b"{}", BASE: rng.randbytes(12_000_000), TURBO: rng.randbytes(1000)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub's client uses."""
    from huggingface_hub import file_download

    with serving(Hub(contents())) as running:
        monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: running.url)
        monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # no waits in retries
        monkeypatch.setenv("HF_TOKEN", "mine")
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weights folder that contains only the manifest."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/manifest.toml").write_text(MANIFEST)
    return tmp_path / "weights"
