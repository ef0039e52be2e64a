"""`script/bench miniature`: how often the embedded bundle draws what it is asked."""

from pathlib import Path

from dream_o.bench.measure import machine
from dream_o.bench.report import Row, write
from dream_o.miniature.evaluation import evaluate, steering
from dream_o.settings import EMBEDDED_BUNDLE

# Pictures a task at each size (height, width): 200 in all at the default one.
SIZES = (((1024, 1024), 40), ((768, 1024), 10), ((768, 768), 10))

TEXT = """# The embedded miniature: does it draw what it is asked?

Held-out prompts and references (combinations that were never trained), 12 steps, guidance 3.5,
seeds 0, 1, 2, ... unselected. What an output shows is decided by the nearest true picture of the
drawn world; *judge* is how often that is right about true renders. *share right* is the mean of a
task's columns.
Made by `script/bench miniature`."""


def run(output: Path) -> None:
    """Evaluates the embedded bundle and writes the report."""
    rows: list[Row] = []
    facts: dict[str, object] = {}
    for size, count in SIZES:
        report = evaluate(EMBEDDED_BUNDLE, count, size)
        facts["judge"] = report["judge"]
        for task, scores in report["tasks"].items():
            shares = {name: share for name, share in scores.items() if name != "seconds"}
            rows.append(
                {
                    "task": f"{task}, {size[1]} x {size[0]}",
                    "pictures": count,
                    "share right": round(sum(shares.values()) / len(shares), 3),
                    "what": ", ".join(f"{name} {share:.0%}" for name, share in shares.items()),
                    "s a picture": scores["seconds"],
                }
            )
    facts |= {
        name: round(value, 3) for name, value in steering(EMBEDDED_BUNDLE, 8, (768, 768)).items()
    }
    facts["machine"] = machine()
    write(output, "miniature", TEXT, rows, "share right", facts)
