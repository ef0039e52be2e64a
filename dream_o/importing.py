"""Imports torch and the libraries built on it faster, without the garbage collector."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Disables the garbage collector in the block, and then excludes all objects from collection.

    Importing torch, diffusers and transformers creates 500,000 objects, which live as long as the
    process. The collector would search them many times during the import, which takes a fifth of
    its time, and again in every full collection, which takes a third of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()
