import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from dream_o.sampling import draw_noise, guidance_per_step, pack, position_ids, set_sigmas, unpack

CPU = torch.device("cpu")


def test_unpack_undoes_pack():
    latents = torch.randn(2, 16, 12, 20)
    tokens = pack(latents)
    assert tokens.shape == (2, 6 * 10, 64)
    assert torch.equal(unpack(tokens, height=96, width=160), latents)


def test_noise_is_what_flux_draws_for_the_seed():
    seeded = torch.Generator().manual_seed(42)
    noise = draw_noise(768, 1024, 16, seeded, torch.float32, CPU)
    drawn = torch.randn((1, 16, 96, 128), generator=torch.Generator().manual_seed(42))
    assert torch.equal(noise, FluxPipeline._pack_latents(drawn, 1, 16, 96, 128))


def test_positions_continue_on_the_diagonal():
    ids = position_ids(2, [(3, 4), (2, 2), (1, 5)], CPU)
    assert ids.shape == (2 + 12 + 4 + 5, 3)
    assert not ids[:, 0].any()
    assert not ids[:2].any()
    assert ids[2].tolist() == [0, 0, 0]
    assert ids[13].tolist() == [0, 2, 3]
    assert ids[14].tolist() == [0, 3, 4]
    assert ids[17].tolist() == [0, 4, 5]
    assert ids[18].tolist() == [0, 5, 6]
    assert ids[22].tolist() == [0, 5, 10]


@pytest.mark.parametrize(("tokens", "mu"), [(256, 0.5), (4096, 1.15), (2304, 0.8466667)])
def test_sigmas_are_shifted_by_the_number_of_image_tokens(tokens, mu):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    times = set_sigmas(scheduler, 8, tokens, CPU)
    plain = torch.linspace(1, 1 / 8, 8)
    shifted = torch.tensor(mu).exp() / (torch.tensor(mu).exp() + 1 / plain - 1)
    torch.testing.assert_close(times, 1000 * shifted)
    assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize(("first", "expected"), [(0.0, [3.5, 3.5, 3.5]), (8.0, [8.0, 3.5, 3.5])])
def test_guidance_of_the_first_step(first, expected):
    assert guidance_per_step(3.5, first, 3).tolist() == expected
