"""`script/bench shares`: how often each precision of a bundle draws what the prompt says."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.hardware import run_today
from benchmarks.options import as_given, bundle_option, some_of, whole
from benchmarks.report import Row, write
from dream_o.atomic import atomic_write
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.digests import sha256
from dream_o.weights.format.layout import BUNDLE_FILE, KINDS
from training.miniature.evaluation import TASKS, Job, draw_all, held_out_examples, score
from training.miniature.examples import Example
from training.miniature.judge import Tiles

SIZE = 768
"""The side of the images; the smallest that the evaluation allows, so that it takes least time."""

PART = 8
"""The number of images after which the finished ones are stored."""

TEXT = """# Shares: does a quantized bundle draw what the prompt says?

{count} held-out requests of each task, those of [the miniature's report](miniature.md), at {size} x
{size} pixels, 12 steps, guidance 3.5, seeds 0, 1, 2, ... without selection. The bundle {weights}
and its quantized copies get the same requests, each in the dtype of its files: float32, and
bfloat16 for the copies. *share* is how often a judge sees what the prompt and the references say,
in percent. *points* is the difference from the unquantized bundle. With {count} requests, one image
is {one:g} points.
Made by `script/bench shares`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    bundle_option(parser)
    some_of(parser, "--precisions", KINDS)
    some_of(parser, "--tasks", tuple(TASKS))
    parser.add_argument("--count", type=whole, default=40, help="images per task (%(default)s)")
    parser.add_argument(
        "--processes", type=whole, default=1, help="number of processes (%(default)s)"
    )
    parser.add_argument(
        "--kept",
        type=Path,
        metavar="FOLDER",
        help="where finished images are stored; the same command continues with the others",
    )


def run(
    output: Path,
    *,
    weights: Path = EMBEDDED_BUNDLE,
    precisions: Sequence[str] = KINDS,
    tasks: Sequence[str] = tuple(TASKS),
    count: int = 40,
    processes: int = 1,
    kept: Path | None = None,
    size: int = SIZE,
) -> None:
    """Draws every request with every bundle, and writes the report after each task.

    Raises:
        BundleError: the folder is not a bundle, or is quantized already.
    """
    before = read_bundle(weights).precision
    named = f" --weights {name}" if (name := as_given(weights)) else ""
    facts = run_today(
        f"shares --precisions {','.join(precisions)} --tasks {','.join(tasks)} "
        f"--count {count}{named}"
    )
    text = TEXT.format(count=count, size=size, weights=weights.name, one=100 / count)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bundles = {before: weights}
        for precision in precisions:
            bundles[precision] = Path(folder) / precision
            quantize(weights, precision, bundles[precision])
        for task in tasks:
            examples = held_out_examples(task, count)
            shares = {}
            for precision, bundle in bundles.items():
                finished = _finished(kept or Path(folder), bundle, task, size)
                shares[precision] = score(
                    task, _drawn(bundle, examples, size, processes, finished), examples
                )
            rows += _rows(task, shares)
            differences = [
                abs(float(str(row[f"{to} points"]))) for row in rows for to in precisions
            ]
            facts["largest difference, points"] = max(differences)
            write(output, "shares", text, rows, before, facts)


def _finished(kept: Path, bundle: Path, task: str, size: int) -> Path:
    """The folder of the finished images of one bundle, task and size."""
    digest = sha256(bundle / BUNDLE_FILE)[:12]
    return kept / f"{bundle.name}-{digest}" / f"{task}-{size}x{size}"


def _drawn(
    bundle: Path, examples: Sequence[Example], size: int, processes: int, finished: Path
) -> list[Tiles]:
    """The tiles of each example's image, with the example's place as the seed.

    Args:
        finished: the folder in which each image's tiles are stored; those in it are not drawn.
    """
    finished.mkdir(parents=True, exist_ok=True)
    files = [finished / f"{seed}.npy" for seed in range(len(examples))]
    missing = [seed for seed, file in enumerate(files) if not file.exists()]
    for start in range(0, len(missing), PART):
        seeds = missing[start : start + PART]
        jobs = [Job(examples[seed], (size, size), seed) for seed in seeds]
        for seed, (tiles, _) in zip(seeds, draw_all(bundle, jobs, processes), strict=True):
            with atomic_write(files[seed]) as file:
                np.save(file, tiles)
    return [np.load(file) for file in files]


def _rows(task: str, shares: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """A row for each score of a task; the first of `shares` is the unquantized bundle's."""
    (before, plain), *others = shares.items()
    rows = []
    for name, share in plain.items():
        row: dict[str, object] = {"share": f"{task}: {name}", before: _percent(share)}
        for precision, theirs in others:
            row[precision] = _percent(theirs[name])
            row[f"{precision} points"] = _percent(theirs[name] - share)
        rows.append(row)
    return rows


def _percent(share: float) -> float:
    return round(100 * share, 1)
