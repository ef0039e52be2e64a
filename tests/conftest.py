"""Fixtures that several test files share."""

import functools
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# A shell that starts a program in the background makes it and all its children deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

PARITY = Path(__file__).parent / "data" / "parity"


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    """`fused(version, turbo)`: the parity model's bundle, made once a run."""
    from dream_o.weights.build.fuse import fuse

    @functools.cache
    def make(version: str, turbo: bool) -> Path:
        folder = tmp_path_factory.mktemp("bundles") / f"{version}-{turbo}"
        fuse(PARITY / "base", PARITY / "adapters", version, folder, turbo=turbo)
        return folder

    return make


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """What a test does to the project's logger (`dream_o.service.logs`) ends with the test."""
    logger = logging.getLogger("dream_o")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`apply_speed` chooses flash attention without a trial and compiles nothing."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    from dream_o.runtime import attention_backend as attention

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    other = AttentionBackendName._NATIVE_FLASH
    monkeypatch.setattr(
        attention,
        "choose_attention",
        lambda transformer, *_: attention.set_attention(transformer, other),
    )
