"""Recognises that onnxruntime ran out of memory, and says what helps.

onnxruntime 1.31 has no exception of its own for this: it raises `Fail` or `RuntimeException` with
the text of its allocator, CUDA, cuBLAS or cuDNN.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from dream_o.errors import OutOfMemoryError, UserError

_TEXTS = re.compile(
    r"Failed to allocate memory"  # onnxruntime's arena of blocks, on a GPU or a CPU
    r"|out[ _]of[ _]memory"  # CUDA failure 2, CUDA_ERROR_OUT_OF_MEMORY
    r"|_STATUS_(\w+_)?ALLOC(ATION)?_FAILED"  # cuBLAS and cuDNN
    r"|\bbad[ _]alloc",  # the C++ library
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; also looks at the errors that led to this one.

    uniface raises its own error from onnxruntime's.
    """
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, MemoryError) or _TEXTS.search(str(current)):
            return True
        current = current.__cause__ if current.__suppress_context__ else current.__context__
    return False


@contextmanager
def memory_for(file: str, device: str) -> Iterator[None]:
    """Says what helps if memory runs out while a network is loaded or run.

    Args:
        file: the network's file name.
        device: the name of the torch device that the network runs on.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_advice(file, device)) from error


def _advice(file: str, device: str) -> str:
    if device.partition(":")[0] != "cuda":
        return (
            f"out of memory while {file} prepared a reference; free memory on this machine, or "
            "prepare references without networks (DREAM_O_REFERENCES=offline)"
        )
    return (
        f"out of GPU memory while {file} prepared a reference; use offloading (DREAM_O_OFFLOAD) "
        "or a quantized bundle, which leave more of it, or prepare references without networks "
        "(DREAM_O_REFERENCES=offline)"
    )
