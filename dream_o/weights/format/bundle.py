"""A weights bundle: reads, checks and writes `bundle.json`."""

import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from dream_o.errors import BundleError
from dream_o.version import __version__
from dream_o.weights.format.digests import FileRecord, record, sha256
from dream_o.weights.format.disk import disk_problem
from dream_o.weights.format.layout import (
    BUNDLE_FILE,
    COMPONENTS,
    INDEX_FILE,
    UNFINISHED_FILE,
    model_index,
)
from dream_o.weights.format.tensors import write_file

logger = logging.getLogger(__name__)

FORMAT = 1
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


@dataclass(frozen=True)
class FusedLora:
    """A user's LoRA that was merged into a bundle: its file name, digest and scale."""

    name: str
    sha256: str
    scale: float


@dataclass(frozen=True)
class Bundle:
    """The contents of `bundle.json`.

    Attributes:
        model_version: `v1.1` or `v1`.
        turbo: whether FLUX.1-Turbo-Alpha is merged, so that 12 steps are enough.
        precision: how the transformer's large matrices are stored: a torch dtype's name, `int8`,
            `fp8` or `int4`.
        dtype: the torch dtype, by name, of everything that is not quantized.
        sources: SHA-256 of every source file, by `base/...` and `adapters/...`.
        files: every file of the bundle except `bundle.json`, by its path in the folder.
        tool_version: the version of this package that made it.
        loras: user LoRAs, in the order in which they were merged after DreamO's adapters.
        folder: the folder that it was read from; not in the file.
        verified: whether this process has already checked the digest of every file; not in the
            file.
    """

    model_version: str
    turbo: bool
    precision: str
    dtype: str
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    tool_version: str = __version__
    loras: tuple[FusedLora, ...] = ()
    folder: Path = field(default=Path(), compare=False)
    verified: bool = field(default=False, compare=False)


def is_bundle(folder: Path) -> bool:
    """Whether a folder has a `bundle.json`; `read_bundle` checks the contents."""
    return (folder / BUNDLE_FILE).is_file()


def read_record(path: Path) -> Bundle:
    """Reads a `bundle.json` and checks that it lists all files of a bundle and no others.

    Raises:
        BundleError: the file cannot be read, or lists a file that does not belong in a bundle.
    """
    try:
        raw = json.loads(path.read_bytes())
        if raw.pop("format") != FORMAT:
            raise BundleError(
                f"{BUNDLE_FILE}: its format is not {FORMAT}, because another version made it; "
                "make the bundle again with dream-o weights fuse"
            )
        raw["files"] = {name: FileRecord(**held) for name, held in raw["files"].items()}
        raw["loras"] = tuple(FusedLora(**held) for held in raw.get("loras", ()))
        if raw.keys() & {"folder", "verified"}:
            raise ValueError  # these fields are never in the file
        bundle = Bundle(**raw)
        _check_types(bundle)
        torch_dtype(bundle.dtype)
    except FileNotFoundError:
        raise BundleError(
            f"{BUNDLE_FILE} is missing, so {path.parent.name!r} is not a weights bundle; "
            "make one with dream-o weights fuse"
        ) from None
    except OSError as error:
        raise BundleError(f"{BUNDLE_FILE} cannot be read: {disk_problem(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(f"{BUNDLE_FILE} cannot be read") from None
    for name in bundle.files:
        component, _, file = name.partition("/")
        known = component in COMPONENTS and COMPONENTS[component].allows(file)
        if not known and name != INDEX_FILE:
            raise BundleError(f"{BUNDLE_FILE} lists {name!r}, which does not belong in a bundle")
    required = [INDEX_FILE, *(f"{name}/{part.config}" for name, part in COMPONENTS.items())]
    for name in required:
        if name not in bundle.files:
            raise BundleError(f"{name} is missing from the weights bundle")
    return bundle


def _check_types(bundle: Bundle) -> None:
    words = [bundle.model_version, bundle.precision, bundle.dtype, bundle.tool_version]
    words += [*bundle.sources, *bundle.sources.values()]
    words += [held.sha256 for held in bundle.files.values()]
    words += [text for lora in bundle.loras for text in (lora.name, lora.sha256)]
    sizes = [held.bytes for held in bundle.files.values()]
    if not all(isinstance(word, str) for word in words) or not isinstance(bundle.turbo, bool):
        raise TypeError
    if not all(type(lora.scale) in (int, float) for lora in bundle.loras):
        raise TypeError
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise TypeError


def read_bundle(folder: Path) -> Bundle:
    """Reads a bundle's record and checks the names and sizes of its files.

    Opens only the two small JSON files at the top of the folder.

    Raises:
        BundleError: a file is missing, has the wrong size, does not belong there, or is a pickle;
            names the file.
    """
    if not folder.is_dir():
        raise BundleError(f"the weights folder {folder.name!r} does not exist")
    bundle = read_record(folder / BUNDLE_FILE)
    _check_names(folder, bundle)
    for name, expected in bundle.files.items():
        if not (folder / name).is_file():
            raise BundleError(f"{name} is missing from the weights bundle")
        if (folder / name).stat().st_size != expected.bytes:
            raise BundleError(
                f"{name} is damaged: {(folder / name).stat().st_size} bytes, not {expected.bytes}"
            )
    _check_model_index(folder)
    return replace(bundle, folder=folder, verified=False)


def opened(bundle: "str | os.PathLike[str] | Bundle") -> Bundle:
    """Returns a Bundle unchanged; reads a folder with `read_bundle`."""
    return bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))


def _check_names(folder: Path, bundle: Bundle) -> None:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        name = inside.as_posix()
        if any(part.startswith(".") for part in inside.parts) or path.is_dir():
            continue
        if path.suffix in PICKLES:
            raise BundleError(f"{name} is a pickle; a weights bundle holds safetensors only")
        if inside.parts[0] in COMPONENTS and name not in bundle.files:
            raise BundleError(f"{name} does not belong in the weights bundle")


def _check_model_index(folder: Path) -> None:
    try:
        found = json.loads((folder / INDEX_FILE).read_bytes())
        expected = model_index(found["_diffusers_version"])
    except (ValueError, KeyError, TypeError):
        raise BundleError(f"{INDEX_FILE} cannot be read") from None
    if found != expected:
        raise BundleError(f"{INDEX_FILE} is not that of a DreamO bundle")


def check_file(
    folder: Path,
    name: str,
    expected: FileRecord,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Raises BundleError if a file's SHA-256 is not the recorded one."""
    if sha256(folder / name, progress) != expected.sha256:
        raise BundleError(f"{name} is damaged: its SHA-256 is not the one in {BUNDLE_FILE}")


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Writes `bundle.json`, which makes the folder a bundle."""
    write_unfinished(folder, bundle).replace(folder / BUNDLE_FILE)


def write_unfinished(stage: Path, bundle: Bundle) -> Path:
    """Writes `bundle.json` under a temporary name and returns its path; not a bundle yet.

    `dream_o.weights.format.staging` renames it when the folder is in its final place.
    """
    path = stage / UNFINISHED_FILE
    path.unlink(missing_ok=True)
    content = asdict(bundle)
    del content["folder"], content["verified"]
    if not bundle.loras:
        del content["loras"]  # so that a bundle without LoRAs is the same as in version 0.1
    text = json.dumps({"format": FORMAT, **content}, indent=2) + "\n"
    write_file(path, [text.encode()])
    return path


def write_model_index(folder: Path) -> None:
    """Writes the same `model_index.json` as diffusers' `save_pretrained`."""
    index = model_index(importlib.metadata.version("diffusers"))
    write_file(folder / INDEX_FILE, [json.dumps(index, indent=2).encode() + b"\n"])


def seal(folder: Path, bundle: Bundle) -> Bundle:
    """Turns a folder with all the components' files into a bundle and returns its record.

    This is for files that other code wrote, such as a pipeline's `save_pretrained`.
    """
    for name, component in COMPONENTS.items():
        _forget_origin(folder / name / component.config)
    names = [INDEX_FILE] + [
        path.relative_to(folder).as_posix()
        for component in COMPONENTS
        for path in sorted((folder / component).iterdir())
    ]
    sealed = replace(bundle, files={name: record(folder / name) for name in names})
    write_bundle(folder, sealed)
    return sealed


def _forget_origin(config: Path) -> None:
    """Removes from a config the folder that the model was loaded from, a path of this machine."""
    content = json.loads(config.read_bytes())
    if content.pop("_name_or_path", None) is not None:
        config.write_text(json.dumps(content, indent=2) + "\n")


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype with a name such as `bfloat16`; raises ValueError if there is none."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(name)
    return dtype
