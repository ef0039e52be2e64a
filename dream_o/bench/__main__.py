"""`script/bench`: one benchmark by its name."""

import argparse
from pathlib import Path

from dream_o.bench import fuse, miniature, references, setup
from dream_o.settings import ROOT

BENCHMARKS = {
    "setup": setup.run,
    "fuse": fuse.run,
    "references": references.run,
    "miniature": miniature.run,
}


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "docs" / "benchmarks",
        metavar="DIR",
        help="where the report goes (default: docs/benchmarks)",
    )
    options = parser.parse_args()
    BENCHMARKS[options.benchmark](options.output)


if __name__ == "__main__":
    main()
