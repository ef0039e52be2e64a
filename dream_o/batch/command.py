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

    Prints the path of `results.parquet` on standard output. Progress, the mistakes in rows, and the
    line `error: ...` go to standard error.
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
        print("interrupted; run the same command again to make the missing images", file=sys.stderr)
        return INTERRUPTED


def run(options: argparse.Namespace) -> int:
    """Makes the batch; returns 1 if an image failed or all rows are wrong.

    Raises:
        BadRowsError: rows are wrong; its `sentences` name them.
        UserError: the command cannot run.
    """
    _check_installed("pyarrow", "pip install pyarrow")
    from dream_o.batch import trying
    from dream_o.batch.progress import Bar
    from dream_o.batch.run import Batch, run_batch

    log_to_stderr()
    # Each image logs at least one line, which would hide the progress bar.
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
            f"all {summary.bad} rows are wrong, and no image was made; failed.jsonl in the output "
            "folder says why"
        )
    counts = [
        f"{summary.rows} requests",
        f"{summary.skipped} already done",
        f"{summary.failed} failed",
        *([f"{summary.bad} rows left out (failed.jsonl)"] if summary.bad else []),
    ]
    print(", ".join(counts), file=sys.stderr)
    print(f"{options.output.rstrip('/')}/results.parquet")
    return 1 if summary.failed else 0


def _engine(options: argparse.Namespace) -> "Callable[[Job], Engine]":
    if options.no_ray:
        from dream_o.batch.in_process import InProcess

        return InProcess
    _check_installed(
        "ray", 'pip install "dream-o[batch]", or add --no-ray to make all images in this process'
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
        description="Makes an image for every request of a file. If it is run again, it makes only "
        "the images that are missing, that failed or whose request has changed.",
        epilog="Example: dream-o batch requests.jsonl --output outputs",
    )
    parser.add_argument(
        "requests",
        metavar="REQUESTS",
        help="a .jsonl, .csv or .parquet file, or its address such as s3://bucket/requests.jsonl: "
        "one request per row, with a name and the inputs of `dream-o predict`",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="folder for the images and results.parquet: a path or an address such as s3://bucket/out",
    )
    parser.add_argument(
        "--template", metavar="FILE", help="a JSON object with defaults for the inputs of all rows"
    )
    parser.add_argument(
        "--matrix",
        action="store_true",
        help="REQUESTS is a JSON object of inputs; every combination of its lists is a request",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="skip rows that are wrong, and write them to failed.jsonl",
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
        help="join this Ray cluster, such as auto or 10.0.0.1:6379 (default: start Ray locally)",
    )
    parser.add_argument(
        "--min", type=_count, metavar="N", help="minimum number of actors (default: one per GPU)"
    )
    parser.add_argument(
        "--max", type=_count, metavar="N", help="maximum number of actors (default: one per GPU)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
