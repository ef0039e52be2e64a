"""Imports without the garbage collector."""

import gc

from dream_o.importing import without_collections


def test_the_collector_rests_during_the_import_and_leaves_alone_what_was_imported():
    before = gc.get_freeze_count()
    with without_collections():
        assert not gc.isenabled()
        made = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(made)


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with without_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
