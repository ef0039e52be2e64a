"""Copies weights from host memory to slots on a device.

This module imports torch but not diffusers, because offloading plans are chosen with it.
"""

import time
from collections.abc import Sequence
from typing import Protocol

import torch

SLOTS = 2
"""The number of units on the device: one computes while the next one is copied."""

# torch rounds pinned memory up to a power of two; parts of this size waste little.
PART = 32 * 2**20


class Copies(Protocol):
    """Copies bytes from the host to a slot."""

    def allocate(self, size: int) -> torch.Tensor:
        """Host memory for a part of a master copy, `(size,)` uint8."""

    def start(self, slot: int, buffer: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
        """Copies the parts into a slot's buffer after all work that was started before."""

    def wait(self, slot: int) -> None:
        """Makes all later computation wait for the last copy into the slot."""


class HostCopies:
    """Synchronous copies on the CPU, where the slots are in the host's own memory."""

    def allocate(self, size: int) -> torch.Tensor:
        """Ordinary memory."""
        return torch.empty(size, dtype=torch.uint8)

    def start(self, slot: int, buffer: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
        """Copies at once."""
        torch.cat(list(parts), out=buffer[: sum(map(len, parts))])

    def wait(self, slot: int) -> None:
        """Returns at once."""


class CudaCopies:
    """Copies from pinned memory on a separate CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.done = [torch.cuda.Event() for _ in range(SLOTS)]

    def allocate(self, size: int) -> torch.Tensor:
        """Pinned memory, which the GPU reads without the CPU."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def start(self, slot: int, buffer: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
        """Queues the copies after all computation that has been queued so far.

        This includes the unit that used the slot last, so the slot is free when the copies start,
        even if a request failed within a unit.
        """
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            for place, part in zip(buffer.split(PART), parts, strict=False):
                place[: len(part)].copy_(part, non_blocking=True)
            self.done[slot].record(self.stream)

    def wait(self, slot: int) -> None:
        """Makes the GPU wait, but not the CPU."""
        torch.cuda.current_stream(self.device).wait_event(self.done[slot])


def transfer_rate(device: torch.device) -> float:
    """Measures the bytes a second from pinned memory to a GPU, with PART bytes."""
    part = torch.empty(PART, dtype=torch.uint8, pin_memory=True)
    place = torch.empty(PART, dtype=torch.uint8, device=device)
    for _ in range(2):  # the first copy warms up
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        place.copy_(part, non_blocking=True)
        torch.cuda.synchronize(device)
    return PART / (time.perf_counter() - begun)


def copies_to(device: torch.device) -> Copies:
    """The copies for a device."""
    return CudaCopies(device) if device.type == "cuda" else HostCopies()
