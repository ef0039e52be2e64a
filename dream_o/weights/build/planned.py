"""Plans a bundle's tensors: how each is made from the base model and the adapters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from dream_o.errors import BundleError
from dream_o.weights.build.lora import Held
from dream_o.weights.build.recipe import (
    EXTRA_TOKENS,
    IDX_EMBEDDING,
    T5_EMBEDDING,
    TASK_EMBEDDING,
    Adapter,
    LowRank,
    low_ranks,
)
from dream_o.weights.format.layout import T5_ALIAS, T5_MATRIX
from dream_o.weights.format.tensors import Entry, Plan, Planned, Stored, tensor_blocks

Entries = Mapping[str, Entry]
Model = Mapping[str, Stored]
"""The tensors of a base model; each is in one part of a file or in several."""

Factors = Mapping[str, Entry | Held]
Progress = Callable[[int, int], None]

# The tables of dreamo.safetensors that go into the transformer: their names in it and their rows.
TABLE_NAMES = {
    TASK_EMBEDDING: ("task_embedding.weight", 2),
    IDX_EMBEDDING: ("idx_embedding.weight", 10),
}

WIDTH_OF = "x_embedder.weight"
"""The transformer's tensor whose width and dtype the tables get."""


@dataclass(frozen=True)
class Addend:
    """What one adapter adds to one module; its factors are still in the file."""

    adapter: Adapter
    low_rank: LowRank
    entries: Factors

    def shape(self) -> tuple[int, int]:
        """The product's shape, from the headers; raises BundleError if the factors do not fit."""
        up, down = self.entries[self.low_rank.up].shape, self.entries[self.low_rank.down].shape
        if len(up) != 2 or len(down) != 2 or up[1] != down[0] or up[0] % self.low_rank.parts:
            raise BundleError(
                f"{self.adapter.file}: {self.low_rank.up} {list(up)} does not fit "
                f"{self.low_rank.down} {list(down)}"
            )
        return up[0] // self.low_rank.parts, down[1]

    def product(self) -> torch.Tensor:
        """The change of the module's weight, float32."""
        return self.low_rank.delta(lambda key: self.entries[key].tensor(), self.adapter.weight)


def counted(plans: Mapping[str, Plan], progress: Progress | None) -> Callable[[int], None]:
    """A function to call with the size of each written block; it calls `progress`.

    Args:
        plans: everything that will be written.
        progress: called with the number of bytes written so far and the total.
    """
    total = sum(planned.size for plan in plans.values() for planned in plan.values())
    done = 0

    def count(written: int) -> None:
        nonlocal done
        done += written
        if progress is not None:
            progress(done, total)

    return count


def plan_transformer(
    base: Model,
    adapters: Sequence[Adapter],
    opened: Mapping[str, Entries],
    dtype: torch.dtype | None,
    loras: Sequence[tuple[Adapter, Factors]] = (),
) -> Plan:
    """Plans the fused transformer, with DreamO's two embedding tables.

    Args:
        base: the tensors of FLUX's transformer.
        adapters: the adapters in the order in which they are merged; the first has the tables.
        opened: the tensors of each adapter's file.
        dtype: the dtype of the result; None keeps each tensor's.
        loras: user LoRAs, merged after the adapters.

    Raises BundleError naming the key that fits no module, or the shape that does not fit its own.
    """
    steps = [(adapter, opened[adapter.file]) for adapter in adapters]
    plan = merged(base, [*steps, *loras], dtype)
    return plan | _plan_tables(base, adapters[0], opened[adapters[0].file], dtype)


def merged(
    base: Model, steps: Iterable[tuple[Adapter, Factors]], dtype: torch.dtype | None
) -> Plan:
    """Plans a model with adapters merged into its weights.

    Args:
        base: the model's tensors.
        steps: adapters and their tensors, in the order in which they are merged.
        dtype: the dtype of the result; None keeps each tensor's.

    Raises BundleError naming the key that fits no module, or the shape that does not fit its own.
    """
    addends: dict[str, list[Addend]] = {}
    for adapter, entries in steps:
        for low_rank in low_ranks(adapter, entries):
            addend = Addend(adapter, low_rank, entries)
            weight = f"{low_rank.module}.weight"
            if weight not in base:
                raise BundleError(
                    f"{adapter.file}: key {low_rank.down} is for {low_rank.module}, "
                    "which the base model does not have"
                )
            if addend.shape() != base[weight].shape:
                raise BundleError(
                    f"{adapter.file}: {low_rank.up} makes {list(addend.shape())}, but "
                    f"{weight} of the base model is {list(base[weight].shape)}"
                )
            addends.setdefault(weight, []).append(addend)
    return {name: _fused(entry, addends.get(name, ()), dtype) for name, entry in base.items()}


def _fused(entry: Stored, addends: Sequence[Addend], dtype: torch.dtype | None) -> Planned:
    if not addends:
        return converted(entry, dtype)
    target = dtype or entry.dtype

    def blocks() -> Iterator[memoryview]:
        total = entry.tensor().float()
        for addend in addends:
            total += addend.product()
        yield from tensor_blocks(total.to(target))

    return Planned(target, entry.shape, blocks)


def _plan_tables(
    base: Model, adapter: Adapter, entries: Entries, dtype: torch.dtype | None
) -> Plan:
    if WIDTH_OF not in base:
        raise BundleError(f"{WIDTH_OF} is missing from the base model's transformer")
    plan = {}
    for key, (name, rows) in TABLE_NAMES.items():
        _expect(adapter, entries, key, (rows, rows), base[WIDTH_OF].shape[0])
        plan[name] = converted(entries[key], dtype or base[WIDTH_OF].dtype)
    return plan


def plan_t5(
    base: Entries, adapter: Adapter, entries: Entries, length: int, dtype: torch.dtype | None
) -> Plan:
    """Plans T5's encoder, with its embedding cut to `length` rows and DreamO's ten rows appended.

    Args:
        base: the tensors of T5.
        adapter, entries: the file that contains the rows, and its tensors.
        length: the number of tokens of the base model's tokenizer.
        dtype: the dtype of the result; None keeps each tensor's.
    """
    matrix = base.get(T5_MATRIX) or base.get(T5_ALIAS)
    if matrix is None:
        raise BundleError(f"{T5_MATRIX} is missing from the base model's text_encoder_2")
    rows, width = matrix.shape
    if rows < length:
        raise BundleError(f"{T5_MATRIX} has {rows} rows, fewer than the tokenizer's {length}")
    added = len(EXTRA_TOKENS)
    _expect(adapter, entries, T5_EMBEDDING, (added, None), width)
    kept = matrix.rows(0, length)
    new = entries[T5_EMBEDDING].rows(entries[T5_EMBEDDING].shape[0] - added, added)
    target = dtype or matrix.dtype

    def blocks() -> Iterator[bytes | memoryview]:
        yield from converted(kept, target).blocks()
        yield from converted(new, target).blocks()

    others = {
        name: converted(entry, dtype)
        for name, entry in base.items()
        if name not in (T5_MATRIX, T5_ALIAS)
    }
    return {T5_MATRIX: Planned(target, (length + added, width), blocks), **others}


def plan_copy(base: Model, dtype: torch.dtype | None) -> Plan:
    """Plans an unchanged model, in another dtype if `dtype` is given."""
    return {name: converted(entry, dtype) for name, entry in base.items()}


def converted(entry: Stored, dtype: torch.dtype | None) -> Planned:
    """Plans an unchanged tensor; rounds floating-point numbers to `dtype` if it is given."""
    if dtype is None or dtype == entry.dtype or not entry.dtype.is_floating_point:
        return Planned(entry.dtype, entry.shape, entry.blocks)
    return Planned(dtype, entry.shape, lambda: tensor_blocks(entry.tensor().to(dtype)))


def _expect(
    adapter: Adapter, entries: Entries, key: str, rows: tuple[int, int | None], width: int
) -> None:
    """Raises BundleError unless a table exists with enough rows and the model's width."""
    if key not in entries:
        raise BundleError(f"{adapter.file}: key {key} is missing")
    shape, (least, most) = entries[key].shape, rows
    if len(shape) != 2 or shape[0] < least or shape[0] > (most or shape[0]) or shape[1] != width:
        raise BundleError(f"{adapter.file}: {key} {list(shape)} does not fit the base model")
