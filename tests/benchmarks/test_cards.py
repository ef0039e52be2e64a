"""The table of cards is what the code computes, and what the project promises of cards."""

import pytest

from benchmarks import cards as page
from dream_o.runtime.cards import CARDS, cards

GB = 10**9


@pytest.fixture(scope="module")
def needed():
    return page.full_size()


def test_the_page_is_what_the_code_computes():
    assert page.PAGE.read_text() == page.page()


def test_bfloat16_fits_24_gb_and_eight_bits_12_gb_without_streaming_blocks(needed):
    found = {(each.gigabytes, each.precision): each for each in cards(needed)}
    assert len(found) == len(CARDS) * len(needed)
    assert found[24, "bfloat16"].placement.plan == "modulation"
    assert found[12, "int8"].placement.plan == "modulation"
    assert found[12, "int4"].moved == 0
    for each in found.values():
        assert each.placement is not None
        assert each.resident <= each.gigabytes * 2**30
        assert (each.moved > 0) == (each.placement.plan == "blocks")


def test_the_modulation_is_6_46_gb_and_each_block_has_its_bytes(needed):
    sizes = needed["bfloat16"]
    assert sum(sizes.modulation) == pytest.approx(6.46 * GB, rel=0.01)
    assert [len(sizes.doubles), len(sizes.singles)] == [19, 38]
    assert sizes.doubles[0] == pytest.approx(0.453 * GB, rel=0.01)
    assert sizes.singles[0] == pytest.approx(0.2265 * GB, rel=0.01)
