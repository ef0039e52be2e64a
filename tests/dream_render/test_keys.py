"""Developer keys: which pass, and how they are compared."""

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


class WatchedBytes(bytes):
    """Bytes that a comparison which ends at the first difference cannot be made with."""

    def __eq__(self, other: object) -> bool:
        pytest.fail("the comparison's time depends on the key")

    def __hash__(self) -> int:
        pytest.fail("the look-up's time depends on the key")


class WatchedKey(str):
    """An accepted key that counts how often it is read."""

    reads = 0

    def __eq__(self, other: object) -> bool:
        pytest.fail("the comparison's time depends on the key")

    def __hash__(self) -> int:
        pytest.fail("the look-up's time depends on the key")

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.reads += 1
        return WatchedBytes(super().encode(encoding, errors))


@pytest.mark.parametrize(("key", "passes"), [*((each, True) for each in ACCEPTED), ("no", False)])
def test_every_accepted_key_is_read_in_full_whichever_is_right(key: str, passes: bool) -> None:
    accepted = [WatchedKey(each) for each in ACCEPTED]
    try:
        check_dev_key(key, accepted)
    except InputError:
        assert not passes
    else:
        assert passes
    assert [each.reads for each in accepted] == [1, 1]
