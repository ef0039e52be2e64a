"""`script/bench`: one benchmark by its name."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import (
    ROOT,
    batch,
    cutouts,
    denoise,
    fetch,
    fuse,
    load,
    miniature,
    precision,
    preview,
    quality,
    references,
    render,
    request,
    scale,
    setup,
    shares,
)
from benchmarks.faults import bench as faults
from dream_o.errors import UserError


def _no_options(parser: argparse.ArgumentParser) -> None:
    """Adds no options besides --output."""


# For each benchmark, the function that runs it and the one that adds its options.
BENCHMARKS: dict[str, tuple[Callable[..., None], Callable[[argparse.ArgumentParser], None]]] = {
    "setup": (setup.run, _no_options),
    "fuse": (fuse.run, _no_options),
    "fetch": (fetch.run, fetch.add_options),
    "load": (load.run, load.add_options),
    "references": (references.run, _no_options),
    "cutouts": (cutouts.run, cutouts.add_options),
    "miniature": (miniature.run, miniature.add_options),
    "shares": (shares.run, shares.add_options),
    "render": (render.run, render.add_options),
    "denoise": (denoise.run, denoise.add_options),
    "request": (request.run, request.add_options),
    "quality": (quality.run, quality.add_options),
    "precision": (precision.run, precision.add_options),
    "scale": (scale.run, scale.add_options),
    "batch": (batch.run, batch.add_options),
    "preview": (preview.run, preview.add_options),
    "faults": (faults.run, faults.add_options),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a benchmark; returns 1, with one line on stderr, for a UserError."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (run, add_options) in BENCHMARKS.items():
        told = (sys.modules[run.__module__].__doc__ or "").partition(": ")[2]
        benchmark = benchmarks.add_parser(name, help=told, description=told)
        add_options(benchmark)
        benchmark.add_argument(
            "--output",
            type=Path,
            default=ROOT / "docs" / "benchmarks",
            metavar="DIR",
            help="folder of the report (default: docs/benchmarks)",
        )
    options = vars(parser.parse_args(arguments))
    run, _ = BENCHMARKS[options.pop("benchmark")]
    try:
        run(**options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # SIGTERM, as Ctrl-C does, ends the servers and removes the folders of a benchmark.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
