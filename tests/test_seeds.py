import logging

import pytest

from dream_o.errors import InputError
from dream_o.service.seeds import choose_seed


@pytest.mark.parametrize("seed", [0, 1, 2**53 + 1, 2**63 - 1])
def test_a_given_seed_is_used_and_logged(seed, caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        assert choose_seed(seed) == seed
    assert f"seed: {seed}" in caplog.text


@pytest.mark.parametrize("seed", [None, -1])
def test_no_seed_is_a_fresh_one_each_time(seed):
    drawn = {choose_seed(seed) for _ in range(8)}
    assert len(drawn) == 8
    assert all(0 <= each < 2**63 for each in drawn)


@pytest.mark.parametrize("seed", [-2, 2**63, 2**80])
def test_other_seeds_are_refused(seed):
    with pytest.raises(InputError, match=rf"^seed: {seed} is out of range; use 0 to 2\^63-1"):
        choose_seed(seed)
