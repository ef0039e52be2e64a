"""Developer keys: which pass, and how they are compared."""

import hmac

import pytest

from dream_o.dream_render.keys import check_dev_key
from dream_o.errors import InputError

ACCEPTED = ("first-key", "second-key")


@pytest.mark.parametrize("key", ACCEPTED)
def test_an_accepted_key_passes(key: str) -> None:
    check_dev_key(key, ACCEPTED)


@pytest.mark.parametrize(
    "key",
    ["", "first-ke", "first-key ", "FIRST-KEY", "first-key,second-key", "schlüssel", "\ud800"],
)
def test_any_other_is_not_recognised_and_not_repeated(key: str) -> None:
    with pytest.raises(InputError) as error:
        check_dev_key(key, ACCEPTED)
    assert str(error.value) == "dev_key: not recognised"


def test_keys_beyond_ascii_are_compared() -> None:
    check_dev_key("schlüssel", ("schlüssel",))


def test_without_accepted_keys_every_one_is_refused_with_what_to_set() -> None:
    for key in ("", "first-key"):
        with pytest.raises(InputError, match=r"^dev_key: .*DREAM_RENDER_DEV_KEYS"):
            check_dev_key(key, ())


@pytest.mark.parametrize("key", [*ACCEPTED, "wrong-keyy"])
def test_every_accepted_key_is_compared_in_constant_time(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    original = hmac.compare_digest

    def recording(offered: bytes, accepted: bytes) -> bool:
        compared.append((offered, accepted))
        return original(offered, accepted)

    monkeypatch.setattr(hmac, "compare_digest", recording)
    try:
        check_dev_key(key, ACCEPTED)
    except InputError:
        assert key not in ACCEPTED
    # Right or wrong, first or last: the same comparisons.
    assert compared == [(key.encode(), accepted.encode()) for accepted in ACCEPTED]
