"""`python -m training.sd_miniature`: trains DreamRender's embedded checkpoint, or continues it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dream_o.errors import UserError
from training.sd_miniature.training import CPU_MINUTES, RECIPE, run
from training.work import log_progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the training; returns the exit status, 1 with one line on stderr for a UserError."""
    parser = argparse.ArgumentParser(prog="python -m training.sd_miniature", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the checkpoint")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="folder of the stages (default: OUTPUT.training)"
    )
    parser.add_argument("--stage", help="the last stage to run (default: all)")
    parser.add_argument("--minutes", type=int, help="approximate duration on one idle CPU core")
    options = parser.parse_args(arguments)
    log_progress()
    # One thread, because sums in another order give other bytes.
    torch.set_num_threads(1)
    work = options.work or options.output.with_name(options.output.name + ".training")
    try:
        recipe = RECIPE.scaled(options.minutes / CPU_MINUTES) if options.minutes else RECIPE
        run(work, options.output, recipe, options.stage)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.output if options.stage is None else work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
