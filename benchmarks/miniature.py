"""`script/bench miniature`: how often the embedded bundle draws what the prompt says."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.hardware import run_today
from benchmarks.measure import measure, median
from benchmarks.options import as_given, bundle_option, whole
from benchmarks.report import Row, write
from dream_o.weights.format.bundle import read_bundle
from training.miniature.evaluation import evaluate
from training.miniature.steering import steering

# Height and width, and the share of --count images at that size.
SIZES = (((1024, 1024), 1.0), ((768, 1024), 0.5), ((768, 768), 0.5))
STEERED = ((768, 768), 0.25)
TIMED, TIMED_RUNS = ("text", "id+ip"), 3

TEXT = """# The embedded miniature: does it draw what the prompt says?

Held-out prompts and references, 12 steps, guidance 3.5, seeds 0, 1, 2, ... without selection. The
transformer was not trained on these combinations of things or people with places; the text encoders
and the VAE were. Things without a name are not included. Prompts of `text` name a thing, its colour
and a place. Those of `two` name two of a thing, their colour and a place; their pattern is not
judged. Those of `worn` name a person with a hat or glasses, and a place. A judge recognises what an
output shows by the most similar image of the drawn world. *judge* is how often it is right on true
images of a size. *share right* is the mean of a task's scores. *most between two sizes* is the
largest difference of these between two sizes, for the first {compared} images, which are the same
requests at every size. *s per image* is measured with {processes} processes that share the cores.
*one image* is measured with the whole machine: the seconds with loading, and the peak memory of the
process; of {runs} runs, the one with the median time. *saturation* (0 to 1) is listed by guidance.
*avoided colour* is the distance (0 to 1) of things from the colour that the prompt gives them,
without and with this colour as `neg_prompt` at `true_cfg=2`; *moved away* is the share of images in
which it grows.
Made by `script/bench miniature`."""

IMPORTS = """
from pathlib import Path
from training.miniature.evaluation import held_out_examples, make
from dream_o.pipeline import DreamOPipeline
"""
ONE_IMAGE = """
make(DreamOPipeline.from_pretrained(Path(bundle)), held_out_examples(task, 1)[0], size, 0)
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--count", type=whole, default=12, help="images per task, at 1024 x 1024 (%(default)s)"
    )
    parser.add_argument(
        "--processes", type=whole, default=cores, help="number of processes (default: one a core)"
    )
    bundle_option(parser)


def run(output: Path, count: int, processes: int, weights: Path) -> None:
    """Evaluates the bundle and writes the report.

    Raises:
        BundleError: the folder is not a bundle.
    """
    read_bundle(weights)
    rows: list[Row] = []
    named = f" --weights {name}" if (name := as_given(weights)) else ""
    facts = run_today(f"miniature --count {count} --processes {processes}{named}")
    compared = min(max(2, round(share * count)) for _, share in SIZES)
    text = TEXT.format(processes=processes, compared=compared, runs=TIMED_RUNS)

    def save() -> None:
        write(output, "miniature", text, rows, "share right", facts)

    for task in TIMED:
        runs = [
            measure(IMPORTS, ONE_IMAGE, bundle=str(weights.absolute()), task=task, size=SIZES[0][0])
            for _ in range(TIMED_RUNS)
        ]
        one = median(runs)
        facts[f"one image, {task}"] = f"{one.seconds:.1f} s, {one.peak / 1e9:.2f} GB"
    shares: dict[str, list[float]] = {}
    for size, share in SIZES:
        some = max(2, round(share * count))
        report = evaluate(weights, some, size, processes=processes, compared=compared)
        facts[f"judge, {size[1]} x {size[0]}"] = report["judge"]
        rows += [_row(task, size, some, scores) for task, scores in report["tasks"].items()]
        for task, mean in report["compared"].items():
            shares.setdefault(task, []).append(mean)
        save()  # keeps the results so far if a later measurement fails
    for task, means in shares.items():
        spread = round(100 * (max(means) - min(means)), 1)
        facts[f"{task}: most between two sizes, points"] = spread
    steered = steering(weights, max(2, round(STEERED[1] * count)), STEERED[0], processes)
    facts |= {name: round(value, 3) for name, value in steered.items()}
    save()


def _row(task: str, size: tuple[int, int], count: int, scores: Mapping[str, float]) -> Row:
    shares = {name: share for name, share in scores.items() if name != "seconds"}
    return {
        "task": f"{task}, {size[1]} x {size[0]}",
        "images": count,
        "share right": round(sum(shares.values()) / len(shares), 3),
        "what": ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
        "s per image": scores["seconds"],
    }
