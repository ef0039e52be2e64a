"""Many mixed requests, one after another, and what they leave behind."""

import base64
import random
import statistics
import sys
import time
from collections import Counter
from typing import Any

from tqdm import tqdm

from benchmarks.faults.images import drawn, encoded
from benchmarks.faults.served import Served, until
from benchmarks.report import Row

# The largest growth of the worker's memory from one part of the requests to the next.
GROWTH = 1.03
LEVEL_AFTER = 300
SMALL = {"width": 768, "height": 768, "num_steps": 8, "ref_res": 256, "prompt": "a lighthouse"}
# Of ten requests, how many are of each kind.
MIX = ("image",) * 3 + ("reference",) * 3 + ("two", "cancelled", "bad", "refused")


def soak(served: Served, requests: int, seed: int = 0) -> list[Row]:
    """Sends mixed requests, a tenth of them cancelled and a fifth bad; rows of the report."""
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    memory: list[int] = []
    ends: list[float] = []
    files = threads = 0
    for number in tqdm(range(requests), desc="soak", file=sys.stderr):
        kind = MIX[number % len(MIX)] if number >= len(MIX) else "image"
        outcome = _cancelled(served, number, draw, ends) if kind == "cancelled" else ""
        if not outcome:
            outcome = str(served.predict(_inputs(kind, number, draw)).get("status"))
        outcomes[f"{kind}: {outcome}"] += 1
        if outcome not in _expected(kind):
            served.problems.append(f"soak, request {number} ({kind}): {outcome}")
        worker = served.worker()
        memory.append(worker.memory_info().rss >> 20)
        files, threads = worker.num_fds(), worker.num_threads()
    fifth = requests // 5
    before = statistics.median(memory[-2 * fifth : -fifth])
    last = statistics.median(memory[-fifth:])
    # Before that many requests the caches are not full.
    if requests >= LEVEL_AFTER and last > GROWTH * before:
        served.problems.append(f"soak: memory grew from {before} to {last} MiB")
    left = served.left_files()
    if left:
        served.problems.append(f"soak: left behind: {left[:5]}")
    return [
        {
            "test": "soak: mixed requests",
            "cases": requests,
            "result": ", ".join(f"{count} {kind}" for kind, count in sorted(outcomes.items())),
        },
        {
            "test": f"memory of the worker, the last {fifth} requests against the {fifth} before",
            "cases": 2 * fifth,
            "result": f"{last:g} against {before:g} MiB (median), "
            f"{100 * (last / before - 1):+.1f}%; {files} open files, {threads} threads; "
            f"{len(left)} files left behind",
        },
        {
            "test": "cancelling",
            "cases": len(ends),
            "result": f"idle again after {max(ends, default=0):.1f} s at most",
        },
    ]


def _expected(kind: str) -> tuple[str, ...]:
    return {"bad": ("failed",), "refused": ("failed",), "cancelled": ("canceled", "succeeded")}.get(
        kind, ("succeeded",)
    )


def _inputs(kind: str, number: int, draw: random.Random) -> dict[str, Any]:
    inputs: dict[str, Any] = SMALL | {
        "seed": number,
        "prompt": f"a lighthouse at dusk, number {number}",
        "output_format": draw.choice(("png", "webp", "jpg")),
    }
    if kind in ("reference", "two", "bad"):
        content = encoded(drawn((700, 500 + number % 200)), "JPEG", quality=80) or b""
        inputs |= {
            "ref_image1": data_url(content[: 2000 if kind == "bad" else None]),
            "ref_task1": draw.choice(("ip", "style")),
        }
    if kind == "two":
        inputs["ref_image2"] = inputs["ref_image1"]
    if kind == "refused":
        inputs["width"] = 770
    return inputs


def _cancelled(served: Served, number: int, draw: random.Random, ends: list[float]) -> str:
    path = f"/predictions/cancelled-{number}"
    body = {"input": _inputs("image", number, draw) | {"num_steps": 30}}
    later = {"Prefer": "respond-async"}
    while served.call("PUT", path, body, later)[0] == 409:
        time.sleep(0.01)
    time.sleep(draw.uniform(0.05, 1.0))
    status, _ = served.call("POST", f"{path}/cancel")
    ends.append(until(lambda: served.state() == "READY", "the end", served.log))
    # A prediction that had ended already cannot be cancelled.
    return "canceled" if status == 200 else "succeeded"


def data_url(content: bytes) -> str:
    """A file as a request carries it."""
    return "data:application/octet-stream;base64," + base64.b64encode(content).decode()
