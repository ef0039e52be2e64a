"""The number of CPU threads by model size."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# With fewer parameters, threads spend more time waiting for each other than working.
SMALL = 2_000_000


@contextmanager
def suited_threads(model: torch.nn.Module) -> Iterator[None]:
    """Uses one thread inside the block if the model is small; otherwise torch's current number."""
    threads = torch.get_num_threads()
    if sum(each.numel() for each in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
