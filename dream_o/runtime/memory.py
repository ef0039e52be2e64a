"""Handles running out of memory."""

import gc
import re
from collections.abc import Callable
from typing import TypeVar

import torch

from dream_o.errors import OutOfMemoryError, UserError
from dream_o.runtime.host_memory import give_back_memory

Answer = TypeVar("Answer")

# The message of the plain RuntimeError that torch 2.13 raises if the CPU's allocator fails.
_CPU_ALLOCATOR = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")


def or_out_of_memory(
    call: Callable[[], Answer], message: str, forget: Callable[[], object] = lambda: None
) -> Answer:
    """Returns `call()`; if memory runs out, frees what it took and raises UserError.

    Args:
        call: computes the answer.
        message: the message of the UserError, unless `call` raised an OutOfMemoryError, whose own
            message says more.
        forget: drops data that can be computed again, such as caches, before memory is freed.

    Raises:
        UserError: the device or the CPU ran out of memory.
    """
    try:
        return call()
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except OutOfMemoryError as error:
        message = str(error)
    except RuntimeError as error:
        if not _CPU_ALLOCATOR.search(str(error)):
            raise
    # After the except block, the traceback no longer references the call's tensors.
    forget()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_back_memory()
    raise UserError(message)
