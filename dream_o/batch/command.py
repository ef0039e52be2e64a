"""`dream-o batch`: many requests from a file, on one machine or on a Ray cluster."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dream_o.errors import UserError
from dream_o.server.predictors import Parser
from dream_o.service.logs import log_to_stderr
from dream_o.service.settings import Settings

if TYPE_CHECKING:
    from dream_o.batch.run import Engine
    from dream_o.batch.worker import Job

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if it cannot run, an image failed, or all rows are wrong.

    Prints the path of `results.parquet` on standard output; progress, mistakes and the one line
    `error: ...` go to standard error.
    """
    try:
        options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        return run(options)
    except UserError as error:
        for sentence in getattr(error, "sentences", ()):
            print(sentence, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Makes the batch; returns 1 if an image failed or all rows are wrong.

    Raises:
        UserError: nothing can be made; `sentences` of a BadRowsError says more.
    """
    _check_installed("pyarrow", "pip install pyarrow")
    from dream_o.batch import trying
    from dream_o.batch.progress import Bar
    from dream_o.batch.run import Batch, run_batch

    log_to_stderr()
    # A line or more for each image would hide the progress.
    logging.getLogger("dream_o").setLevel(logging.ERROR)
    logging.getLogger(trying.__name__).setLevel(logging.WARNING)
    batch = Batch(
        options.requests,
        options.output,
        options.template,
        options.matrix,
        options.skip_bad,
        options.check_references,
    )
    summary = run_batch(batch, _engine(options), Bar())
    if not summary.rows:
        raise UserError(
            f"all {summary.bad} rows are wrong, and nothing was made; failed.jsonl in the output "
            "folder says why"
        )
    said = [
        f"{summary.rows} requests",
        f"{summary.skipped} were there",
        f"{summary.failed} failed",
        *([f"{summary.bad} rows left out (failed.jsonl)"] if summary.bad else []),
    ]
    print(", ".join(said), file=sys.stderr)
    print(f"{options.output.rstrip('/')}/results.parquet")
    return 1 if summary.failed else 0


def _engine(options: argparse.Namespace) -> "Callable[[Job], Engine]":
    if options.no_ray:
        from dream_o.batch.here import Here

        return Here
    _check_installed(
        "ray", 'pip install "dream-o[batch]", or add --no-ray to use this process alone'
    )
    from dream_o.batch.on_ray import OnRay
    from dream_o.batch.ray_pool import Pool

    settings = Settings.from_environ()
    pool = Pool(options.address, options.min, options.max, settings.device, settings.references)
    return lambda job: OnRay(job, pool)


def _check_installed(module: str, command: str) -> None:
    if find_spec(module) is None:
        raise UserError(f"{module} is not installed; run {command}")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100000")
    return int(text)


def _parser() -> Parser:
    parser = Parser(
        prog="dream-o batch",
        description="Makes an image for every request of a file. The same command again makes what "
        "is missing or has changed, and nothing else.",
        epilog="Example: dream-o batch requests.jsonl --output outputs",
    )
    parser.add_argument(
        "requests",
        metavar="REQUESTS",
        help="a .jsonl, .csv or .parquet file, or its address such as s3://bucket/requests.jsonl: "
        "a request a row, with a name and the inputs of `dream-o predict`",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="where images and results.parquet go: a folder or an address such as s3://bucket/out",
    )
    parser.add_argument(
        "--template", metavar="FILE", help="a JSON object of inputs for rows that do not give them"
    )
    parser.add_argument(
        "--matrix",
        action="store_true",
        help="REQUESTS is a JSON object of inputs; every combination of its lists is a request",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="go on without the rows that are wrong; they go into failed.jsonl",
    )
    parser.add_argument(
        "--check-references",
        action="store_true",
        help="open every reference, and look for faces, before the first image",
    )
    parser.add_argument(
        "--no-ray", action="store_true", help="make all images in this process, without Ray"
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="join this Ray cluster, such as auto or 10.0.0.1:6379 (default: start Ray here)",
    )
    parser.add_argument(
        "--min", type=_count, metavar="N", help="actors at least (default: one a GPU)"
    )
    parser.add_argument(
        "--max", type=_count, metavar="N", help="actors at most (default: one a GPU)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
