"""Streams weights from the host to the device while other layers compute.

A unit is a block of T5 or of the transformer, or a modulation layer. Its weights have one master
copy in host memory. The device has a few slots. A unit's parameters are always views of the same
slot, so addresses never change and compiled code stays valid. Before a unit computes, the copies of
its weights and of the next units' weights into their slots have started. Nothing is copied back.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook

from dream_o.runtime.copies import PART, SLOTS, Copies, copies_to

# Tensors start at multiples of this many bytes in a slot, as in torch's allocator.
ALIGNMENT = 512
HOOK = "streamed_weights"


class Streamed:
    """Streams the weights of units to the device as they are needed.

    Args:
        units: the modules, in the order in which they compute, with their weights on the CPU. The
            weights move to the master copies, so that host memory holds them only once.
        loop_start: the index of the first unit of a loop, such as the blocks of the denoising loop;
            `len(units)` without a loop. The last unit is followed by this one. The number of units
            from here on should be a multiple of SLOTS.
        device: the device on which the units compute.
        copies: copies the bytes; None for the device's default.
    """

    def __init__(
        self,
        units: Sequence[torch.nn.Module],
        loop_start: int,
        device: torch.device,
        copies: Copies | None = None,
    ) -> None:
        self.copies = copies or copies_to(device)
        self.count, self.loop_start = len(units), loop_start
        # The modulation layers are inside blocks, but are separate units.
        layouts = [
            Layout(unit, without=[each for each in units if each is not unit]) for unit in units
        ]
        size = max((layout.size for layout in layouts), default=0)
        self.slots = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(SLOTS)]
        self.held: list[int | None] = [None] * SLOTS
        self.masters: list[list[torch.Tensor]] = []
        for index, (unit, layout) in enumerate(zip(units, layouts, strict=True)):
            self.masters.append(layout.master(self.copies))
            layout.move(self.slots[index % SLOTS])
            registry = HookRegistry.check_if_exists_or_initialize(unit)
            registry.register_hook(_Arrival(self, index), HOOK)

    def bring(self, index: int) -> None:
        """Makes a unit's weights arrive before it computes, and starts the next units' copies."""
        busy: set[int] = set()
        for unit in self._expected(index):
            slot = unit % SLOTS
            if slot in busy:
                break
            busy.add(slot)
            if self.held[slot] != unit:
                # If the copy is interrupted, the slot counts as empty.
                self.held[slot] = None
                self.copies.start(slot, self.slots[slot], self.masters[unit])
                self.held[slot] = unit
        self.copies.wait(index % SLOTS)

    def _expected(self, index: int) -> Iterator[int]:
        for _ in range(SLOTS):
            yield index
            index = index + 1 if index + 1 < self.count else self.loop_start
            if index == self.count:
                return


class _Arrival(ModelHook):
    """Brings a unit's weights before it computes.

    In an extrapolated step, diffusers' cache skips the unit, and this hook with it.
    """

    def __init__(self, streamed: Streamed, index: int) -> None:
        super().__init__()
        self.streamed, self.index = streamed, index

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Brings the weights; does not change the arguments."""
        self.streamed.bring(self.index)
        return args, kwargs


class Layout:
    """The positions of a module's weights in a slot; submodules in `without` are left out.

    Tensors that share memory, such as fused projections and their parts, also share it in the slot.
    """

    def __init__(self, module: torch.nn.Module, without: Sequence[torch.nn.Module] = ()) -> None:
        left_out = {id(each) for each in without}
        self.owners = [each for each in module.modules() if id(each) not in left_out]
        ranges: list[tuple[int, int, torch.Tensor]] = []
        for _, _, tensor in weights_of(self.owners):
            for each in parts_of(tensor):
                ranges.append((*_range(each), each))
        # Each entry is (start, end, offset in the slot, a tensor in the same storage).
        self.wholes: list[tuple[int, int, int, torch.Tensor]] = []
        self.size = 0
        for start, end, tensor in sorted(ranges, key=lambda each: (each[0], -each[1])):
            if self.wholes and start < self.wholes[-1][1]:
                first, last, offset, kept = self.wholes.pop()
                self.wholes.append((first, max(last, end), offset, kept))
            else:
                self.wholes.append((start, end, self.size, tensor))
            first, last, offset, _ = self.wholes[-1]
            self.size = offset + -(-(last - first) // ALIGNMENT) * ALIGNMENT

    def master(self, copies: Copies) -> list[torch.Tensor]:
        """Copies the weights to new memory, laid out as in the slot, in parts of PART bytes."""
        sizes = [min(PART, self.size - start) for start in range(0, self.size, PART)]
        parts = [copies.allocate(size) for size in sizes]
        for start, end, offset, tensor in self.wholes:
            data = _bytes(tensor, start, end - start)
            done = 0
            while done < len(data):
                part, place = divmod(offset + done, PART)
                count = min(len(data) - done, len(parts[part]) - place)
                parts[part][place : place + count] = data[done : done + count]
                done += count
        return parts

    def move(self, buffer: torch.Tensor) -> None:
        """Makes the module's parameters and buffers views of a slot's buffer."""

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            address, _ = _range(tensor)
            start, _, offset, _ = next(
                whole for whole in self.wholes if whole[0] <= address < max(whole[1], whole[0] + 1)
            )
            place = torch.empty(0, dtype=tensor.dtype, device=buffer.device)
            first = (buffer.storage_offset() + offset + address - start) // tensor.itemsize
            return place.set_(buffer.untyped_storage(), first, tensor.shape, tensor.stride())

        for owner, name, tensor in list(weights_of(self.owners)):
            there = plain_tensors(tensor, moved)
            if isinstance(tensor, torch.nn.Parameter):
                there = torch.nn.Parameter(there, requires_grad=False)
            setattr(owner, name, there)


def plain_tensors(
    tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Applies `change` to each plain tensor inside a tensor; a quantized one has several."""
    if not hasattr(type(tensor), "__tensor_flatten__"):
        return change(tensor)
    subclass: Any = tensor
    names, context = subclass.__tensor_flatten__()
    inner = {name: plain_tensors(getattr(tensor, name), change) for name in names}
    changed: torch.Tensor = type(subclass).__tensor_unflatten__(
        inner, context, tensor.shape, tensor.stride()
    )
    return changed


def parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors inside a tensor: itself, or the parts of a quantized one."""
    parts: list[torch.Tensor] = []

    def keep(part: torch.Tensor) -> torch.Tensor:
        parts.append(part)
        return part

    plain_tensors(tensor, keep)
    return parts


def weights_of(
    owners: Iterable[torch.nn.Module],
) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor]]:
    """The modules' own parameters and buffers, without submodules': owner, name, tensor."""
    for owner in owners:
        for held in (owner.named_parameters, owner.named_buffers):
            for name, tensor in held(recurse=False, remove_duplicate=False):
                yield owner, name, tensor


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    """The address of a tensor's first byte, and the address after its last."""
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    count = last + 1 if tensor.numel() else 0
    return tensor.data_ptr(), tensor.data_ptr() + count * tensor.itemsize


def _bytes(tensor: torch.Tensor, start: int, size: int) -> torch.Tensor:
    storage = tensor.untyped_storage()
    data = torch.empty(0, dtype=torch.uint8)
    return data.set_(storage, start - storage.data_ptr(), (size,), (1,))
