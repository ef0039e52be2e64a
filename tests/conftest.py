"""Fixtures that several test files share."""

import functools
import gc
import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from dream_o.importing import without_collections

if TYPE_CHECKING:
    from dream_o.pipeline import DreamOPipeline
    from tests.groups import GroupScheduling
    from tests.predicting import Recorder

# pytest-xdist's workers share the cores. torch reads this when it is imported, and so do the
# processes that the tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts a program in the background makes it and all its children deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

PARITY = Path(__file__).parent / "data" / "parity"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "GroupScheduling | None":
    """How `--dist loadfile` shares the tests among processes."""
    from tests.groups import GroupScheduling

    return GroupScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports all test files, and with them half a million objects, without the collector."""
    with without_collections():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests that take longest first."""
    from tests.groups import place_of

    items.sort(key=lambda item: place_of(item.nodeid))


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> None:
    """The garbage collector leaves alone what exists, such as 500,000 objects of imported modules.

    It searches them in a third of a second, in every collection.
    """
    gc.freeze()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a run share. What is made in it once needs a lock."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def fused(run_folder: Path) -> Callable[[str, bool], Path]:
    """`fused(version, turbo)`: the parity model's bundle, made once a run. Tests only read it."""
    from dream_o.weights.build.fuse import fuse
    from dream_o.weights.format.bundle import is_bundle

    @functools.cache
    def make(version: str, turbo: bool) -> Path:
        folder = run_folder / "bundles" / f"{version}-{turbo}"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_bundle(folder):
                fuse(PARITY / "base", PARITY / "adapters", version, folder, turbo=turbo)
        return folder

    return make


@pytest.fixture(scope="session")
def quantized(fused: Callable[[str, bool], Path], run_folder: Path) -> Callable[[str], Path]:
    """`quantized(to)`: the parity model's bundle in int8, fp8 or int4, made once a run."""
    from dream_o.weights.build.quantize import quantize
    from dream_o.weights.format.bundle import is_bundle

    @functools.cache
    def make(to: str) -> Path:
        source = fused("v1.1", True)
        folder = run_folder / "bundles" / to
        with FileLock(f"{folder}.lock"):
            if not is_bundle(folder):
                quantize(source, to, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def quick_bundle(fused: Callable[[str, bool], Path], run_folder: Path) -> Path:
    """A bundle for what is around the model: an image takes a third of the parity model's time.

    Its transformer has one block of each kind with one narrow head, its VAE four channels and no
    attention. Their weights are random.
    """
    import torch
    from diffusers import AutoencoderKL

    from dream_o.pipeline import DreamOPipeline
    from dream_o.transformer import DreamOTransformer2DModel
    from dream_o.weights.format.bundle import is_bundle, read_bundle, seal

    blocks = {"num_layers": 1, "num_single_layers": 1}
    head = {"num_attention_heads": 1, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    channels = {"block_out_channels": (4,) * 4, "norm_num_groups": 2, "layers_per_block": 0}
    folder = run_folder / "bundles" / "quick"
    source = fused("v1.1", True)
    with FileLock(f"{folder}.lock"):
        if not is_bundle(folder):
            made = DreamOPipeline.from_pretrained(source)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                config = {**made.transformer.config, **blocks, **head}
                made.register_modules(transformer=DreamOTransformer2DModel.from_config(config))
                config = {**made.vae.config, **channels, "mid_block_add_attention": False}
                made.register_modules(vae=AutoencoderKL.from_config(config))
            made.save_pretrained(folder)
            seal(folder, read_bundle(source))
    return folder


@pytest.fixture
def pipeline(fused: Callable[[str, bool], Path]) -> "DreamOPipeline":
    """The parity model's pipeline."""
    from tests.pipelines import pipeline_of

    return pipeline_of(fused("v1.1", True))


@pytest.fixture(scope="session")
def quiet_logger() -> tuple[list[logging.Handler], bool, int]:
    """The project's logger as it is before any test: handlers, propagation, level."""
    logger = logging.getLogger("dream_o")
    return list(logger.handlers), logger.propagate, logger.level


@pytest.fixture(autouse=True)
def logger_as_before(quiet_logger: tuple[list[logging.Handler], bool, int]) -> Iterator[None]:
    """What a test, or a fixture of its module, does to the project's logger ends with the test."""
    yield
    logger = logging.getLogger("dream_o")
    handlers, logger.propagate, level = quiet_logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Recorder":
    """script/predict in this process and in an empty folder, without a model."""
    from dream_o.service.generator import DreamO
    from tests.predicting import Recorder

    recorder = Recorder()
    monkeypatch.setattr(DreamO, "load", lambda *_: recorder)
    monkeypatch.chdir(tmp_path)
    return recorder


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which script/predict must be done before a model is touched."""
    from dream_o.service.generator import DreamO

    monkeypatch.delattr(DreamO, "load")
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
