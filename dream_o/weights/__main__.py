"""`python -m dream_o.weights`: everything that is done to weights once, before any prediction."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dream_o.errors import UserError
from dream_o.lora import RECIPES

DTYPES = ("float32", "bfloat16", "float16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, 1 with one line on stderr for a UserError."""
    options = _parser().parse_args(arguments)
    try:
        result: int = options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was left half done", file=sys.stderr)
        return 130
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dream_o.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    fuse = commands.add_parser("fuse", help="base model and adapters into a bundle")
    fuse.add_argument("--base", type=Path, required=True, metavar="DIR")
    fuse.add_argument("--adapters", type=Path, required=True, metavar="DIR")
    fuse.add_argument("--version", choices=RECIPES, default="v1.1")
    fuse.add_argument("--output", type=Path, required=True, metavar="BUNDLE")
    fuse.add_argument("--no-turbo", action="store_true", help="leave FLUX.1-Turbo-Alpha out")
    fuse.add_argument("--dtype", choices=DTYPES, help="default: the base model's own")
    fuse.set_defaults(run=_fuse)

    info = commands.add_parser("info", help="what is in a bundle and what it needs")
    info.add_argument("bundle", type=Path, metavar="BUNDLE")
    info.set_defaults(run=_info)
    return parser


def _fuse(options: argparse.Namespace) -> int:
    from dream_o.weights.bundle import torch_dtype
    from dream_o.weights.fuse import fuse

    with tqdm(unit="B", unit_scale=True, desc="fuse", disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fuse(
            options.base,
            options.adapters,
            options.version,
            options.output,
            turbo=not options.no_turbo,
            dtype=torch_dtype(options.dtype) if options.dtype else None,
            progress=show,
        )
    print(options.output)
    return 0


def _info(options: argparse.Namespace) -> int:
    from dream_o.weights.info import describe, table

    print(table(describe(options.bundle)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
