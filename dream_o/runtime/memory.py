"""What happens when memory runs out."""

import gc
import re
from collections.abc import Callable
from typing import TypeVar

import torch

from dream_o.errors import UserError
from dream_o.runtime.host_memory import give_back_memory

Answer = TypeVar("Answer")

# What torch 2.13 says when the CPU's allocator fails; it raises a plain RuntimeError.
_CPU_ALLOCATOR = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")


def or_out_of_memory(
    call: Callable[[], Answer], message: str, forget: Callable[[], object] = lambda: None
) -> Answer:
    """What `call` returns; when memory runs out, a UserError and memory as before.

    Args:
        call: computes the answer.
        message: of the UserError, for the user.
        forget: drops what can be made again, such as caches, before memory is given back.

    Raises:
        UserError: memory ran out, on the device or on the CPU.
    """
    try:
        return call()
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not _CPU_ALLOCATOR.search(str(error)):
            raise
    # Out here the traceback no longer holds the call's tensors.
    forget()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_back_memory()
    raise UserError(message)
