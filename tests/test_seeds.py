import logging

import pytest
import torch

from dream_o.errors import InputError
from dream_o.service.seeds import choose_seed, consecutive_seeds, seed_metric, torch_seed


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_given_seed_is_used_and_logged(seed, caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        assert choose_seed(seed) == seed
    assert f"seed: {seed}" in caplog.text


@pytest.mark.parametrize("seed", [None, -1])
def test_no_seed_is_a_fresh_one_each_time(seed):
    drawn = {choose_seed(seed) for _ in range(8)}
    assert len(drawn) == 8
    assert all(0 <= each < 2**63 for each in drawn)


@pytest.mark.parametrize("seed", [-2, 2**64, 2**80])
def test_other_seeds_are_refused(seed):
    with pytest.raises(InputError, match=rf"^seed: {seed} is out of range; use 0 to 2\^64-1"):
        choose_seed(seed)


def noise(seed):
    return torch.randn(4, generator=torch.Generator().manual_seed(torch_seed(seed)))


def test_seeds_up_to_2_63_are_torchs_own():
    for seed in (0, 5, 2**32 + 5, 2**63 - 1):
        expected = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(noise(seed), expected)


@pytest.mark.parametrize("seed", [2**63, 2**63 + 5, 2**64 - 1])
def test_larger_seeds_repeat_and_differ_from_their_aliases(seed):
    assert torch.equal(noise(seed), noise(seed))
    for alias in (seed - 2**63, seed % 2**32, seed % 2**31, seed - 1):
        assert not torch.equal(noise(seed), noise(alias))


def test_a_metric_keeps_every_digit():
    assert [seed_metric(each) for each in (0, 2**63 - 1)] == [0, 2**63 - 1]
    assert seed_metric(2**63 + 1) == "9223372036854775809"


def test_consecutive_seeds_start_at_the_given_one_or_at_a_random_one():
    assert list(consecutive_seeds(5, 3)) == [5, 6, 7]
    assert list(consecutive_seeds(2**64 - 2, 2)) == [2**64 - 2, 2**64 - 1]
    starts = {consecutive_seeds(given, 2)[0] for given in (None, -1) for _ in range(4)}
    assert len(starts) == 8
    for given, count in [(2**64 - 2, 3), (-2, 1), (2**64, 1)]:
        with pytest.raises(InputError, match=r"^seed: "):
            consecutive_seeds(given, count)
