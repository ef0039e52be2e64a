"""How many CPU threads a model is worth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Below this many parameters, threads wait for each other longer than they work.
SMALL = 2_000_000


@contextmanager
def suited_threads(model: torch.nn.Module) -> Iterator[None]:
    """One thread inside the body where the model is small, torch's own number where it is not."""
    threads = torch.get_num_threads()
    if sum(each.numel() for each in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
