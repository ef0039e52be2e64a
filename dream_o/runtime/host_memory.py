"""The host's memory. Imports no torch: the predictor's file imports it before setup."""

import ctypes


def give_back_memory() -> None:
    """Returns what the C library keeps of freed tensors to the system.

    The server runs each prediction on whichever thread is free, and glibc keeps freed memory for
    each of them. Where the C library is another, this does nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
