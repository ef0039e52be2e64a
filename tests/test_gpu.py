"""What only a GPU shows. script/test runs these where there is one: `pytest -m gpu`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from dream_o import pipeline as pipelines
from dream_o.errors import UserError
from dream_o.references.networks import MATTE_FILE, Networks, choose_providers
from dream_o.runtime.offload import has_float8
from dream_o.runtime.plans import PLANS
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.layout import KINDS
from tests.references.onnx_files import save_matte

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda:0")
PRECISIONS = ("bfloat16", *KINDS)
SMALL = {"width": 256, "height": 256, "num_steps": 8, "ref_res": 256, "seed": 3}
# The largest mean difference from the CPU's image, of 255 levels. On a CPU, int4 weights change the
# image by 2.4 levels, skipped steps by 2.5, and both by 3.3; rounding on a GPU adds to that.
MOST = {"exact": 4.0, "compiled": 4.0, "fast": 6.0}


@pytest.fixture(scope="session")
def bundles(
    fused: Callable[[str, bool], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The parity bundle in each precision."""
    folder = tmp_path_factory.mktemp("precisions")
    found = {"bfloat16": fused("v1.1", True)}
    for kind in KINDS:
        quantize(found["bfloat16"], kind, folder / kind)
        found[kind] = folder / kind
    return found


@pytest.fixture(autouse=True)
def compiled_code(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps compiled code only for this test run."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(run_folder / "compiled-for-gpu"))


@pytest.fixture(scope="session")
def wanted(fused: Callable[[str, bool], Path]) -> torch.Tensor:
    """The CPU's image in the GPU's dtype; the image in float32 differs by 6.5 levels."""
    settings = Settings(device="cpu", dtype="bfloat16")
    return pixels(DreamO.load(settings, fused("v1.1", True)))


def pixels(dream_o: DreamO, **options: int) -> torch.Tensor:
    dream_o.pipeline.set_progress_bar_config(disable=True)
    image = dream_o.generate(Request("a hill", (), **{**SMALL, **options})).image
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()


def is_refused(precision: str, bundle: Path) -> bool:
    """Whether this GPU cannot use the precision; checks that loading then fails."""
    if precision != "fp8" or has_float8(CUDA):
        return False
    with pytest.raises(UserError, match="compute capability"):
        DreamO.load(Settings(device="cuda:0"), bundle)
    return True


@pytest.mark.parametrize("speed", MOST)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_in_each_mode_gives_the_image_and_gives_it_twice(
    bundles, wanted, precision, speed
):
    if is_refused(precision, bundles[precision]):
        return
    dream_o = DreamO.load(Settings(device="cuda:0", speed=speed), bundles[precision])
    once = pixels(dream_o)
    assert (once - wanted).abs().mean() < MOST[speed]
    assert torch.equal(pixels(dream_o), once)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_plan_gives_the_image_of_everything_on_the_gpu(bundles, precision, plan):
    if is_refused(precision, bundles[precision]):
        return
    settings = [Settings(device="cuda:0", speed="exact", offload=each) for each in ("none", plan)]
    there, moved = (pixels(DreamO.load(each, bundles[precision])) for each in settings)
    assert torch.equal(there, moved)


def test_a_second_threads_first_request_makes_no_workspace_of_its_own(bundles):
    dream_o = DreamO.load(Settings(device="cuda:0"), bundles["bfloat16"])
    large = {"width": 1024, "height": 1024}
    first = pixels(dream_o, **large)
    taken = torch.cuda.memory_allocated(CUDA)
    with ThreadPoolExecutor(1) as another:
        second = another.submit(pixels, dream_o, **large).result()
    assert torch.equal(first, second)
    # cuBLAS and cuDNN would allocate workspaces for a thread that has none.
    assert torch.cuda.memory_allocated(CUDA) <= taken


def test_after_memory_ran_out_the_next_request_is_made(bundles):
    dream_o = DreamO.load(Settings(device="cuda:0", speed="exact"), bundles["bfloat16"])
    before = pixels(dream_o)
    taken = torch.cuda.memory_allocated(CUDA)
    _, total = torch.cuda.mem_get_info(CUDA)
    # The memory that the warm-up freed would be enough for the request.
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved(CUDA) + 2**20) / total, CUDA
    )
    try:
        with pytest.raises(UserError, match="out of GPU memory"):
            pixels(dream_o, width=1024, height=1024)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
    assert torch.equal(pixels(dream_o), before)
    assert torch.cuda.memory_allocated(CUDA) <= taken


def test_the_device_is_healthy(bundles):
    dream_o = DreamO.load(Settings(device="cuda:0", speed="exact"), bundles["bfloat16"])
    assert dream_o.thread.is_healthy()


def test_no_step_waits_for_the_gpu(bundles, tmp_path, monkeypatch):
    path = tmp_path / "hill.png"
    PIL.Image.linear_gradient("L").convert("RGB").save(path)
    settings = Settings(device="cuda:0", references="offline")
    dream_o = DreamO.load(settings, bundles["bfloat16"])
    dream_o.pipeline.set_progress_bar_config(disable=True)
    denoise, watched = pipelines.denoise, []

    def watching(*arguments: Any) -> torch.Tensor:
        watched.append(True)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return denoise(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(pipelines, "denoise", watching)
    request = Request("a hill", (Reference(path, "style"),), **SMALL)
    assert dream_o.generate(request).image.size == (256, 256)
    assert watched


def test_references_are_prepared_on_the_gpu_if_onnxruntime_has_cuda(tmp_path, caplog):
    import onnxruntime

    save_matte(tmp_path / MATTE_FILE)
    providers = choose_providers("cuda:0")
    session = onnxruntime.InferenceSession(tmp_path / MATTE_FILE, providers=providers)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert ("CUDAExecutionProvider" in session.get_providers()) == has_cuda
    assert ("this onnxruntime has no CUDA" in caplog.text) != has_cuda
    image = np.asarray(PIL.Image.linear_gradient("L").convert("RGB"))
    mattes = [Networks(tmp_path, device).matte(image) for device in ("cuda:0", "cpu")]
    assert np.array_equal(*mattes)


def test_two_gpus_make_the_image_of_one(bundles):
    if torch.cuda.device_count() < 2:
        with pytest.raises(UserError, match="is not on this machine"):
            DreamO.load(Settings(device="cuda:0,1"), bundles["bfloat16"])
        return
    one = pixels(DreamO.load(Settings(device="cuda:0", speed="exact"), bundles["bfloat16"]))
    shared = DreamO.load(Settings(device="cuda:0,1"), bundles["bfloat16"])
    try:
        assert (pixels(shared) - one).abs().mean() < MOST["exact"]
    finally:
        shared.followers.close()
