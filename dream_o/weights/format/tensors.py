"""Safetensors files as streams: one tensor in memory at a time, on the way in and on the way out.

The format (github.com/huggingface/safetensors): eight bytes, little-endian, hold the length of a
JSON header that gives each tensor's dtype, shape and byte range; the data follow. The library
maps whole files, and mapped pages count as the process's memory; plain reads do not.
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

# Readers want the data at a multiple of 8 bytes. Mapped at a multiple of a cache line, matrices are
# read as fast as memory that torch allocated, and their products are rounded alike.
ALIGNMENT = 64
HEADER_LIMIT = 100_000_000  # bytes; the reference implementation's own limit
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
        """The tensor itself, on the CPU, in memory of its own."""
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
        """The tensor's bytes as they are in the file, a block at a time."""
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
    """Tensors in files, one below the other, as one tensor."""

    parts: tuple[Entry, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (sum(part.shape[0] for part in self.parts), *first[1:])

    def tensor(self) -> torch.Tensor:
        """The tensor itself, on the CPU."""
        return torch.cat([part.tensor() for part in self.parts])

    def blocks(self) -> Iterator[bytes]:
        """The bytes of all parts in order, a block at a time."""
        for part in self.parts:
            yield from part.blocks()


Stored = Entry | Joined
"""A tensor that is read when it is needed."""


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of one safetensors file, in the order of their bytes, and its metadata.

    Raises BundleError, naming the file, when it is no whole safetensors file.
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
        raise BundleError(f"{path.parent.name}/{path.name} is no safetensors file") from None
    for name, entry in entries.items():
        numbers = (entry.start - 8 - length, entry.end, *entry.shape)
        if not all(type(each) is int and each >= 0 for each in numbers):
            raise BundleError(f"{path.parent.name}/{path.name} is no safetensors file")
        if entry.end - entry.start != _size(entry.dtype, entry.shape):
            raise BundleError(f"{path.parent.name}/{path.name}: the bytes of {name} do not fit it")
        if entry.end > size:
            raise BundleError(f"{path.parent.name}/{path.name} is cut short")
    return entries, metadata


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one model: `stem.safetensors`, or what its index names.

    Raises BundleError when neither is there, or the index names a file outside the folder.
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
    """Every tensor of one model, over all its shards.

    Raises BundleError, naming the key, when it is in two shards, or not where the index says.
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
            raise BundleError(f"{folder.name}/{name} does not hold {key}, as its index says")
    return entries


def _weight_map(index: Path) -> dict[str, str]:
    """Which file holds which tensor; BundleError when the index does not say, or leads astray."""
    try:
        weight_map = dict(json.loads(index.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(f"{index.parent.name}/{index.name} is no index of shards") from None
    for name in weight_map.values():
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise BundleError(f"{index.parent.name}/{index.name} names a file outside its folder")
    return weight_map


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: its dtype and shape now, its bytes when they are asked for."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[bytes | memoryview]]

    @property
    def size(self) -> int:
        """Bytes."""
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
    """A file as it was written."""

    path: Path
    record: FileRecord


def write_file(path: Path, blocks: Iterable[bytes | memoryview]) -> Written:
    """Writes a new file down to the disk, and hashes it on the way."""
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
    """Writes one safetensors file of any size, whole or not at all.

    Args:
        path: the file; it must not be there.
        plan, metadata, progress: as `write_model` takes them.
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
        folder: where; it must exist.
        stem: `stem.safetensors`, or `stem-00001-of-0000N.safetensors` with an index.
        plan: the tensors; each is made when its turn comes and let go when it is written. No file
            holds more bytes of them than SHARD, unless a single one does.
        metadata: strings for every shard's header.
        progress: called with the size of each block of tensors that was written.
    """
    shards: list[dict[str, Planned]] = [{}]
    for name, tensor in plan.items():
        full = sum(planned.size for planned in shards[-1].values()) + tensor.size > SHARD
        if full and shards[-1]:
            shards.append({})
        shards[-1][name] = tensor
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
