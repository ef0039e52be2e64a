"""Results that are made once, and forgotten in order of their last use."""

import pytest

from dream_o.service.cache import ByteBoundedCache


class Maker:
    """Makes strings and counts how often."""

    def __init__(self):
        self.made = []

    def __call__(self, value):
        def make():
            self.made.append(value)
            return value

        return make


def test_a_value_is_made_once():
    cache, maker = ByteBoundedCache(10), Maker()
    assert [cache.get_or_make("k", maker("abc"), len) for _ in range(3)] == ["abc"] * 3
    assert maker.made == ["abc"]
    assert (len(cache), cache.bytes) == (1, 3)


def test_the_least_recently_used_goes_first():
    cache, maker = ByteBoundedCache(6), Maker()
    cache.get_or_make(1, maker("aa"), len)
    cache.get_or_make(2, maker("bb"), len)
    cache.get_or_make(3, maker("cc"), len)
    cache.get_or_make(1, maker("aa"), len)
    cache.get_or_make(4, maker("dd"), len)
    assert cache.bytes == 6
    cache.get_or_make(1, maker("aa"), len)
    cache.get_or_make(2, maker("again"), len)
    assert maker.made == ["aa", "bb", "cc", "dd", "again"]


def test_bytes_never_exceed_the_limit_and_a_large_value_is_not_kept():
    cache, maker = ByteBoundedCache(6), Maker()
    cache.get_or_make(1, maker("aaaa"), len)
    assert cache.get_or_make(2, maker("bbbbbbb"), len) == "bbbbbbb"
    assert (len(cache), cache.bytes) == (1, 4)
    cache.get_or_make(3, maker("cccc"), len)
    assert (len(cache), cache.bytes) == (1, 4)


def test_a_limit_of_zero_keeps_nothing():
    cache, maker = ByteBoundedCache(0), Maker()
    assert [cache.get_or_make("k", maker("a"), len) for _ in range(2)] == ["a", "a"]
    assert maker.made == ["a", "a"]


def test_a_failure_is_not_kept():
    cache = ByteBoundedCache(10)

    def fail():
        raise OSError

    with pytest.raises(OSError):
        cache.get_or_make("k", fail, len)
    assert cache.get_or_make("k", lambda: "fine", len) == "fine"


def test_a_value_may_be_made_with_the_cache_itself():
    cache = ByteBoundedCache(10)
    value = cache.get_or_make(
        "outer", lambda: cache.get_or_make("inner", lambda: "ab", len) + "c", len
    )
    assert value == "abc"
    assert (len(cache), cache.bytes) == (2, 5)


def test_clear_forgets():
    cache, maker = ByteBoundedCache(10), Maker()
    cache.get_or_make("k", maker("abc"), len)
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)
    cache.get_or_make("k", maker("abc"), len)
    assert maker.made == ["abc", "abc"]
