"""`script/bench miniature`: how often the embedded bundle draws what it is asked."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dream_o.bench.measure import machine
from dream_o.bench.report import Row, write
from dream_o.miniature.evaluation import evaluate, steering
from dream_o.settings import EMBEDDED_BUNDLE
from dream_o.weights.bundle import read_bundle

# Height and width, and the share of --count that is drawn at that size.
SIZES = (((1024, 1024), 1.0), ((768, 1024), 0.5), ((768, 768), 0.5))
STEERED = ((768, 768), 0.25)

TEXT = """# The embedded miniature: does it draw what it is asked?

Held-out prompts and references, 12 steps, guidance 3.5, seeds 0, 1, 2, ... unselected: things and
people in places where the transformer was never trained to put them (text encoders and VAE saw
them all; things without a name are not among them; those of `text` name a thing, its colour and a
place). What an output shows is decided by the nearest true picture of the
drawn world; *judge* is how often that is right about true renders. *share right* is the mean of a
task's columns. *s a picture* is of one process among {processes}, each with its share of the cores.
*saturation* (0 to 1) is by guidance, *red* how far (0 to 1) things that the prompt calls red are
from red, without and with `neg_prompt=red` at `true_cfg=2`.
Made by `script/bench miniature`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--count", type=int, default=12, help="pictures a task, at 1024 x 1024")
    parser.add_argument("--processes", type=int, default=cores, help="that draw (one a core)")
    parser.add_argument("--weights", type=Path, default=EMBEDDED_BUNDLE, metavar="BUNDLE")


def run(output: Path, count: int, processes: int, weights: Path) -> None:
    """Evaluates the bundle and writes the report.

    Raises:
        BundleError: the folder is no bundle.
    """
    read_bundle(weights)
    rows: list[Row] = []
    named = "" if weights == EMBEDDED_BUNDLE else f" --weights {weights.name}"
    facts: dict[str, object] = {
        "command": f"script/bench miniature --count {count} --processes {processes}{named}",
        "machine": machine(),
    }
    for size, share in SIZES:
        some = max(2, round(share * count))
        report = evaluate(weights, some, size, processes=processes)
        facts["judge"] = report["judge"]
        for task, scores in report["tasks"].items():
            shares = {name: share for name, share in scores.items() if name != "seconds"}
            rows.append(
                {
                    "task": f"{task}, {size[1]} x {size[0]}",
                    "pictures": some,
                    "share right": round(sum(shares.values()) / len(shares), 3),
                    "what": ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
                    "s a picture": scores["seconds"],
                }
            )
        save(output, rows, facts, processes)  # what is measured by now, should the rest fail
    steered = steering(weights, max(2, round(STEERED[1] * count)), STEERED[0], processes)
    facts |= {name: round(value, 3) for name, value in steered.items()}
    save(output, rows, facts, processes)


def save(output: Path, rows: Sequence[Row], facts: dict[str, object], processes: int) -> None:
    """Writes the report."""
    between = {
        f"{task}: most between two sizes, points": spread for task, spread in spreads(rows).items()
    }
    write(
        output, "miniature", TEXT.format(processes=processes), rows, "share right", facts | between
    )


def spreads(rows: Sequence[Row]) -> dict[str, float]:
    """By how many points a task's share differs between sizes, at most."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(str(row["task"]).partition(",")[0], []).append(
            float(str(row["share right"]))
        )
    return {task: round(100 * (max(each) - min(each)), 1) for task, each in shares.items()}
