"""The VAE strip by strip: the same pixels everywhere, with fewer large maps at once."""

import weakref

import pytest
import torch
from diffusers import AutoencoderKL
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cards import full_size_models
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime import vae_strips
from dream_o.runtime.memory_needs import working_bytes
from dream_o.runtime.placing import apply_placement
from dream_o.runtime.plans import Placement
from dream_o.runtime.vae_strips import use_strips
from tests.conftest import PARITY

SIDE = 256


def vae(dtype=torch.float32) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(PARITY / "base" / "vae", torch_dtype=dtype).eval()


@pytest.fixture
def latents() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 16, SIDE // 8, SIDE // 8, generator=generator)


class Peak(TorchDispatchMode):
    """The most bytes of new tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        for each in made if isinstance(made, list | tuple) else [made]:
            if isinstance(each, torch.Tensor):
                self.note(each.untyped_storage())
        return made

    def note(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self.seen:
            return
        self.seen.add(address)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self.forget, address, size)

    def forget(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.alive -= size


@torch.no_grad()
@pytest.mark.parametrize("rows", [16, 40, 64])
def test_pixels_are_the_same_at_seams_and_elsewhere(latents, rows, monkeypatch):
    monkeypatch.setattr(vae_strips, "ROWS", rows)
    whole, strips = vae(), vae()
    use_strips(strips)
    expected, made = whole.decode(latents).sample, strips.decode(latents).sample
    assert (made - expected).abs().max() < 1 / 255 * 2
    assert (made - expected).norm() < 1e-5 * expected.norm()
    image = expected.clamp(-1, 1)
    modes = [each.encode(image).latent_dist.mode() for each in (whole, strips)]
    assert (modes[1] - modes[0]).norm() < 1e-5 * modes[0].norm()


@torch.no_grad()
def test_bfloat16_pixels_differ_as_much_as_rounding_makes_them(latents):
    exact = vae().decode(latents).sample
    whole, strips = vae(torch.bfloat16), vae(torch.bfloat16)
    use_strips(strips)
    given = latents.bfloat16()
    expected, made = (each.decode(given).sample.float() for each in (whole, strips))
    assert (made - exact).norm() < 1.1 * (expected - exact).norm()


@torch.no_grad()
@pytest.mark.parametrize("strips", [False, True])
def test_the_bytes_that_are_counted_on_are_those_of_the_full_size(strips):
    config = full_size_models()["vae"].config
    with FakeTensorMode():
        model = AutoencoderKL.from_config(config)
        if strips:
            use_strips(model)
        latents, image = torch.empty(1, 16, 128, 128), torch.empty(1, 3, 1024, 1024)
        estimates = working_bytes(3072, config.block_out_channels, torch.float32)[strips]
        for phase, call, given in (
            ("decoding", model.decode, latents),
            ("references", model.encode, image),
        ):
            with Peak() as peak:
                call(given)
            assert 0.9 * estimates[phase] < peak.most <= estimates[phase]


def test_a_placement_with_strips_gives_the_same_image(fused):
    pipelines = [DreamOPipeline.from_pretrained(fused("v1.1", True)) for _ in range(2)]
    apply_placement(pipelines[1], Placement("blocks", 4, strips=True), torch.device("cpu"))
    latents = torch.randn(1, 256, 64, generator=torch.Generator().manual_seed(0))
    one, other = (each.decode(latents, SIDE, SIDE, "np") for each in pipelines)
    assert abs(one - other).max() < 1 / 255
