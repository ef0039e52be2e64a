"""Importing torch and the libraries that are built on it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Stops the garbage collector while the body imports; afterwards it leaves alone what is there.

    Importing torch, diffusers and transformers makes 500,000 objects, which live as long as the
    process. Otherwise the collector searches them many times while they are made, a fifth of the
    time of the import, and again in every full collection, a third of a second.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.freeze()
            gc.enable()
