"""Reads and writes safetensors files as streams, with one tensor in memory at a time.

The format (github.com/huggingface/safetensors): eight little-endian bytes with the length of a JSON
header, the header with each tensor's dtype, shape and byte range, then the data. The safetensors
library maps whole files, and mapped pages count as the process's memory; plain reads do not.
"""

import hashlib
import json
import math
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from dream_o.errors import BundleError
from dream_o.weights.format.digests import BLOCK, FileRecord
from dream_o.weights.format.disk import disk_problem

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

# Readers need the data at a multiple of 8 bytes. Matrices that are mapped at a multiple of a cache
# line are read as fast as memory that torch allocated, and their products are rounded the same.
ALIGNMENT = 64
HEADER_LIMIT = 100_000_000  # bytes; the limit of the reference implementation
SHARD = 4_000_000_000  # bytes of tensors in one file; several files are read in parallel


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its dtype, shape and the range of its bytes in that file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    def tensor(self) -> torch.Tensor:
        """Reads the tensor into new memory on the CPU."""
        data = bytearray(self.end - self.start)
        with self.file.open("rb") as file:
            file.seek(self.start)
            if file.readinto(data) != len(data):
                raise BundleError(f"{self.file.name} is cut short")
        if not data:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(data, dtype=self.dtype).reshape(self.shape)

    def rows(self, first: int, count: int) -> "Entry":
        """Some consecutive rows of the tensor, still in the file."""
        row = (self.end - self.start) // self.shape[0]
        start = self.start + first * row
        shape = (count, *self.shape[1:])
        return Entry(self.file, self.dtype, shape, start, start + count * row)

    def blocks(self) -> Iterator[bytes]:
        """The tensor's bytes in the file, a block at a time."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            left = self.end - self.start
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise BundleError(f"{self.file.name} is cut short")
                left -= len(block)
                yield block


@dataclass(frozen=True)
class Joined:
    """Several tensors in files, stacked by rows, as one tensor."""

    parts: tuple[Entry, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts), *first[1:])

    def tensor(self) -> torch.Tensor:
        """Reads the parts into one new tensor on the CPU."""
        return torch.cat([part.tensor() for part in self.parts])

    def blocks(self) -> Iterator[bytes]:
        """The bytes of all parts in order, a block at a time."""
        for part in self.parts:
            yield from part.blocks()


Stored = Entry | Joined
"""A tensor that stays in its files until it is read."""


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of one safetensors file, in the order of their bytes, and its metadata.

    Raises:
        BundleError: it is not a complete safetensors file; names the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(HEADER_LIMIT, size - 8):
                raise ValueError
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        entries = {
            name: Entry(
                path,
                DTYPES[info["dtype"]],
                tuple(info["shape"]),
                8 + length + info["data_offsets"][0],
                8 + length + info["data_offsets"][1],
            )
            for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        }
    except FileNotFoundError:
        raise BundleError(f"{path.parent.name}/{path.name} is missing") from None
    except OSError as error:
        raise BundleError(
            f"{path.parent.name}/{path.name} cannot be read: {disk_problem(error)}"
        ) from None
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BundleError(f"{path.parent.name}/{path.name} is not a safetensors file") from None
    for name, entry in entries.items():
        numbers = (entry.start - 8 - length, entry.end, *entry.shape)
        if not all(type(each) is int and each >= 0 for each in numbers):
            raise BundleError(f"{path.parent.name}/{path.name} is not a safetensors file")
        if entry.end - entry.start != _size(entry.dtype, entry.shape):
            raise BundleError(
                f"{path.parent.name}/{path.name}: the size of {name} does not match its shape"
            )
        if entry.end > size:
            raise BundleError(f"{path.parent.name}/{path.name} is cut short")
    return entries, metadata


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one model: `stem.safetensors`, or the files in its index.

    Raises:
        BundleError: neither exists, or the index names a file outside the folder.
    """
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        if not single.exists():
            raise BundleError(
                f"{folder.name}/{single.name} is missing (only safetensors files are opened)"
            )
        return [single]
    return [folder / name for name in sorted(set(_weight_map(index).values()))]


def read_model(folder: Path, stem: str) -> dict[str, Entry]:
    """Every tensor of one model, from all its shards.

    Raises:
        BundleError: a key is in two shards, or not in the shard that the index names; names the
            key.
    """
    entries: dict[str, Entry] = {}
    for path in weight_files(folder, stem):
        for key, entry in read_header(path)[0].items():
            if key in entries:
                raise BundleError(
                    f"{folder.name}: {key} is in both {entries[key].file.name} and {path.name}"
                )
            entries[key] = entry
    index = folder / f"{stem}.safetensors.index.json"
    for key, name in _weight_map(index).items() if index.exists() else ():
        if key not in entries or entries[key].file.name != name:
            raise BundleError(
                f"{folder.name}/{name} does not contain {key}, although the index says so"
            )
    return entries


def _weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor by an index; raises BundleError if the index is not valid."""
    try:
        weight_map = dict(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(f"{index.parent.name}/{index.name} is not an index of shards") from None
    for name in weight_map.values():
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise BundleError(f"{index.parent.name}/{index.name} names a file outside its folder")
    return weight_map


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: its dtype, its shape, and a function that makes its bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return _size(self.dtype, self.shape)


Plan = dict[str, Planned]
"""The tensors of one model, by name."""


def _size(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * dtype.itemsize


def tensor_blocks(tensor: torch.Tensor) -> Iterator[memoryview]:
    """A tensor's bytes, a block at a time, without a copy."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK].data


@dataclass(frozen=True)
class Written:
    """A file that was written, with its size and digest."""

    path: Path
    record: FileRecord


def write_file(path: Path, blocks: Iterable[bytes | memoryview]) -> Written:
    """Writes a new file, flushes it to the disk, and hashes it while writing."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for block in blocks:
            file.write(block)
            digest.update(block)
            size += len(block)
        file.flush()
        os.fsync(file.fileno())
    return Written(path, FileRecord(size, digest.hexdigest()))


def write_tensors(
    path: Path,
    plan: Mapping[str, Planned],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Writes one safetensors file of any size atomically.

    Args:
        path: the file, which must not exist.
        plan, metadata, progress: as for `write_model`.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        written = _write_shard(beside, plan, metadata, progress)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return Written(path, written.record)


def write_model(
    folder: Path,
    stem: str,
    plan: Mapping[str, Planned],
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Written]:
    """Writes a model's tensors, in the plan's order, to one file or to numbered shards.

    Args:
        folder: the target folder, which must exist.
        stem: the files are `stem.safetensors`, or `stem-00001-of-0000N.safetensors` with an index.
        plan: the tensors; each is made when it is written and freed afterwards. A file has at most
            SHARD bytes of tensors, unless a single tensor is larger.
        metadata: entries for the header of every shard.
        progress: called with the size of each written block of tensors.
    """
    shards: list[dict[str, Planned]] = [{}]
    held_bytes = 0
    for name, tensor in plan.items():
        if held_bytes + tensor.size > SHARD and shards[-1]:
            shards.append({})
            held_bytes = 0
        shards[-1][name] = tensor
        held_bytes += tensor.size
    if len(shards) == 1:
        return [_write_shard(folder / f"{stem}.safetensors", shards[0], metadata, progress)]
    names = [
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        for number in range(1, len(shards) + 1)
    ]
    index = {
        "metadata": {"total_size": sum(planned.size for planned in plan.values())},
        "weight_map": {key: name for name, held in zip(names, shards, strict=True) for key in held},
    }
    return [
        *(
            _write_shard(folder / name, held, metadata, progress)
            for name, held in zip(names, shards, strict=True)
        ),
        write_file(
            folder / f"{stem}.safetensors.index.json", [json.dumps(index, indent=2).encode()]
        ),
    ]


def _write_shard(
    path: Path,
    plan: Mapping[str, Planned],
    metadata: Mapping[str, str] | None,
    progress: Callable[[int], None] | None,
) -> Written:
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for name, planned in plan.items():
        start, end = end, end + planned.size
        header[name] = {
            "dtype": CODES[planned.dtype],
            "shape": list(planned.shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)

    def blocks() -> Iterator[bytes | memoryview]:
        yield struct.pack("<Q", len(encoded)) + encoded
        for planned in plan.values():
            for block in planned.blocks():
                yield block
                if progress is not None:
                    progress(len(block))

    return write_file(path, blocks())
