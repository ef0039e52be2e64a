"""`dream-o weights`: downloads, checks, fuses and quantises weights before the first prediction."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dream_o.cli.exit_status import exit_status
from dream_o.errors import BundleError
from dream_o.paths import MANIFEST, WEIGHTS
from dream_o.service.logs import log_to_stderr
from dream_o.weights.build.recipe import RECIPES
from dream_o.weights.fetch.manifest import MANIFEST_FILE, choose, read_lock, read_manifest
from dream_o.weights.format.layout import KINDS

if TYPE_CHECKING:
    from dream_o.weights.build.lora import UserLora

SINGLE_FILES = (
    ("--transformer", "transformer", "flux1-dev.safetensors"),
    ("--clip", "text_encoder", "clip_l.safetensors"),
    ("--t5", "text_encoder_2", "t5xxl_fp16.safetensors"),
    ("--vae", "vae", "ae.safetensors"),
)
"""The options that name a single file: option, component, and what the file is usually called."""

DTYPES = ("float32", "bfloat16", "float16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, 1 after an error, with one line on stderr."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    return exit_status(lambda: options.run(options), "nothing was left half done")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dream-o weights", description=__doc__)
    parser.add_argument(
        "--folder",
        type=Path,
        default=WEIGHTS,
        metavar="DIR",
        help="the folder of the manifest and of downloads (default: weights/)",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    sets = commands.add_parser("list", help="list what can be downloaded and what is installed")
    sets.set_defaults(run=_list)

    download = commands.add_parser("download", help="download sets of the list from the hub")
    download.add_argument(
        "names", nargs="*", metavar="NAME", help="default: all except optional ones"
    )
    download.set_defaults(run=_download)

    verify = commands.add_parser("verify", help="compare the downloaded files with the lock file")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all that are installed")
    verify.set_defaults(run=_verify)

    fuse = commands.add_parser("fuse", help="make a bundle from the base model and adapters")
    fuse.add_argument("--base", type=Path, metavar="DIR", help="default: the downloaded base model")
    fuse.add_argument(
        "--adapters", type=Path, metavar="DIR", help="default: the downloaded adapters"
    )
    fuse.add_argument("--version", choices=RECIPES, default="v1.1")
    fuse.add_argument("--output", type=Path, required=True, metavar="BUNDLE")
    fuse.add_argument("--no-turbo", action="store_true", help="leave out FLUX.1-Turbo-Alpha")
    fuse.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE_OR_HF[=SCALE]",
        help="a LoRA of your own, or hf://owner/repository/FILE, merged last; can be repeated",
    )
    for option, component, example in SINGLE_FILES:
        fuse.add_argument(
            option,
            dest=component,
            type=Path,
            metavar="FILE",
            help=f"use this file, such as {example}; --base then supplies configurations only",
        )
    fuse.add_argument("--dtype", choices=DTYPES, help="default: the base model's dtype")
    fuse.set_defaults(run=_fuse)

    quantize = commands.add_parser("quantize", help="make a smaller bundle from a bundle")
    quantize.add_argument("bundle", type=Path, metavar="BUNDLE")
    quantize.add_argument("--to", choices=KINDS, required=True)
    quantize.add_argument("--output", type=Path, required=True, metavar="BUNDLE2")
    quantize.set_defaults(run=_quantize)

    export = commands.add_parser("export", help="write a bundle's transformer as one file")
    export.add_argument("bundle", type=Path, metavar="BUNDLE")
    export.add_argument("--to", choices=("comfyui",), required=True)
    export.add_argument("--output", type=Path, required=True, metavar="FILE")
    export.set_defaults(run=_export)

    info = commands.add_parser(
        "info", help="show what a bundle contains and how much memory it needs"
    )
    info.add_argument("bundle", type=Path, metavar="BUNDLE")
    info.set_defaults(run=_info)
    return parser


def _manifest(folder: Path) -> Path:
    return MANIFEST if folder == WEIGHTS else folder / MANIFEST_FILE


def _list(options: argparse.Namespace) -> int:
    from dream_o.weights.fetch.download import installed

    for each in read_manifest(_manifest(options.folder)).values():
        state = "installed" if installed(options.folder, each) else "not installed"
        known = [file.size for file in each.files if file.size is not None]
        size = f"{sum(known) / 1e9:.1f} GB" if known else "size unknown"
        access = "gated" if each.gated else "open"
        print(f"{each.name:<12} {state:<14} {len(each.files):>2} files  {size}")
        print(f"{'':<12} {each.title}")
        print(f"{'':<12} {each.repository}@{each.revision}, {access}, {each.licence}")
    return 0


def _download(options: argparse.Namespace) -> int:
    from dream_o.weights.fetch.download import download

    sets = choose(read_manifest(_manifest(options.folder)), options.names)
    download(options.folder, sets)
    print(", ".join(each.name for each in sets))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from dream_o.weights.fetch.download import differing

    manifest, lock = read_manifest(_manifest(options.folder)), read_lock(options.folder)
    here = [each.name for each in manifest.values() if any(f.local in lock for f in each.files)]
    names = options.names or here
    wrong = differing(options.folder, choose(manifest, names)) if names else []
    for line in wrong:
        print(line)
    if wrong:
        print("run `dream-o weights download` to fetch them again")
    print(f"{len(wrong)} files differ" if wrong else f"whole: {', '.join(names) or 'nothing here'}")
    return 1 if wrong else 0


def _fuse(options: argparse.Namespace) -> int:
    from dream_o.weights.build.fuse import fuse
    from dream_o.weights.build.single_files import SingleFiles
    from dream_o.weights.format.bundle import torch_dtype

    # Downloaded files must match the lock file; a user's own folders are not checked against it.
    own = [name for name in ("base", "adapters") if getattr(options, name)]
    known = {
        local: locked.sha256
        for local, locked in read_lock(options.folder).items()
        if local.partition("/")[0] not in own
    }
    loras = [_lora(options.folder, text) for text in options.lora]
    base = options.base or _downloaded(options.folder, "base", "the base model")
    adapters = options.adapters or _downloaded(options.folder, "adapters", "the adapters")
    with _bar("fuse") as bar:
        fuse(
            base,
            adapters,
            options.version,
            options.output,
            turbo=not options.no_turbo,
            single_files=SingleFiles(
                **{name: getattr(options, name) for _, name, _ in SINGLE_FILES}
            ),
            loras=loras,
            dtype=torch_dtype(options.dtype) if options.dtype else None,
            known=known,
            progress=bar,
        )
    print(options.output)
    return 0


def _downloaded(folder: Path, name: str, what: str) -> Path:
    """The folder of a download; raises BundleError if nothing was downloaded into it."""
    downloaded = folder / name
    if not downloaded.is_dir() or not any(downloaded.iterdir()):
        raise BundleError(
            f"{what} must be downloaded first: run dream-o weights download, or name a folder with "
            f"--{name}"
        )
    return downloaded


def _export(options: argparse.Namespace) -> int:
    from dream_o.weights.build.export import export

    with _bar("export") as bar:
        export(options.bundle, options.output, progress=bar)
    print(options.output)
    return 0


def _lora(folder: Path, text: str) -> "UserLora":
    from dream_o.weights.build.lora import UserLora
    from dream_o.weights.fetch.address import is_hub_address
    from dream_o.weights.fetch.single_file import fetch_file

    name, scale = UserLora.parse(text)
    file = fetch_file(name, folder) if is_hub_address(name) else Path(name)
    if not file.is_file():
        raise BundleError(
            f"--lora {name}: the file does not exist; give a file or hf://owner/repository/FILE"
        )
    return UserLora(file, scale)


def _quantize(options: argparse.Namespace) -> int:
    from dream_o.weights.build.quantize import quantize

    with _bar("quantize") as bar:
        quantize(options.bundle, options.to, options.output, progress=bar)
    print(options.output)
    return 0


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    bars: list[tqdm] = []  # empty until there is progress, so that an early error is the only line

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(unit="B", unit_scale=True, desc=name, total=total))
        bars[0].update(done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _info(options: argparse.Namespace) -> int:
    from dream_o.weights.build.info import describe, table

    print(table(describe(options.bundle)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
