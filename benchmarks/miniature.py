"""`script/bench miniature`: how often the embedded bundle draws what the prompt asks for."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.hardware import machine
from benchmarks.measure import measure, median
from benchmarks.options import as_given, bundle_option, whole
from benchmarks.report import Row, write
from dream_o.weights.format.bundle import read_bundle
from training.miniature.evaluation import evaluate, steering

# Height and width, and the share of --count that is drawn at that size.
SIZES = (((1024, 1024), 1.0), ((768, 1024), 0.5), ((768, 768), 0.5))
STEERED = ((768, 768), 0.25)
TIMED, TIMED_RUNS = ("text", "id+ip"), 3

TEXT = """# The embedded miniature: does it draw what it is asked?

Held-out prompts and references, 12 steps, guidance 3.5, seeds 0, 1, 2, ... unselected: things
and people in places where the transformer was never trained to put them. (The text encoders and
the VAE saw all of them. Things without a name are not included. Prompts of `text` name a thing,
its colour and a place.) A judge decides what an output shows: it picks the nearest true image
of the drawn world. *judge* is how often that is right for true renders of a size. *share right*
is the mean of a task's columns. *most between two sizes* compares those of the first {compared}
images, which are the same requests at every size. *s per image* is measured with {processes}
processes that share the cores. *one image* is measured alone on the machine with all cores:
seconds including loading, and the most memory that its process held, the median of {runs} by
time. *saturation* (0 to 1) is listed by guidance. *red* is the distance (0 to 1) from red of
things that the prompt calls red, without and with `neg_prompt=red` at `true_cfg=2`; it should
grow.
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
    """The options of the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--count", type=whole, default=12, help="images per task, at 1024 x 1024 (%(default)s)"
    )
    parser.add_argument(
        "--processes", type=whole, default=cores, help="that draw (default: one a core)"
    )
    bundle_option(parser)


def run(output: Path, count: int, processes: int, weights: Path) -> None:
    """Evaluates the bundle and writes the report.

    Raises:
        BundleError: the folder is no bundle.
    """
    read_bundle(weights)
    rows: list[Row] = []
    named = f" --weights {name}" if (name := as_given(weights)) else ""
    facts: dict[str, object] = {
        "command": f"script/bench miniature --count {count} --processes {processes}{named}",
        "machine": machine(),
    }
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
        save()  # what is measured by now, should the rest fail
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
