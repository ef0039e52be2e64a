"""`script/bench batch`: two actors against one process, cost of a request, the driver's memory."""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import made_by
from benchmarks.measure import Measured, measure
from benchmarks.noise import LoadNoise as LoadNoise
from benchmarks.options import whole
from benchmarks.report import Row, write
from dream_o.batch.ledger import SUCCEEDED, Outcome
from dream_o.batch.run import Batch, run_batch
from dream_o.batch.worker import Load
from dream_o.images.writing import write_image
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.checks import request_of
from dream_o.service.settings import Settings

SPEED_BAR, COST_BAR_MS = 1.7, 50.0
# Requests of the comparison with a plain loop.
CHEAP = 300

TEXT = """# Batches

*embedded bundle* makes images of 768 x 768 pixels in 8 steps; each process has one CPU thread.
*noise* is a model that returns noise at once, so that only the work around the model takes time.
*a plain loop* generates and writes the same files and does nothing else. *seconds* is the time of
the whole command, including the start of Ray and its actors; *ms a request* is the time per request
between the first and the last image. *driver MB* is the peak memory of the process of the command,
including libraries.
Made by `script/bench batch`."""

SETTINGS = Settings(weights=str(EMBEDDED_BUNDLE), device="cpu", speed="exact", references="offline")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""

    def several(text: str) -> tuple[int, ...]:
        return tuple(whole(part) for part in text.split(","))

    parser.add_argument(
        "--images",
        type=whole,
        default=16,
        metavar="N",
        help="images of the comparison of two actors with one process (%(default)s)",
    )
    parser.add_argument(
        "--rows",
        type=several,
        default=(1_000, 10_000, 100_000),
        metavar="N,N",
        help="rows of noise for the driver's memory (default: 1000,10000,100000)",
    )


def run(output: Path, *, images: int = 16, rows: Sequence[int] = (1_000, 10_000, 100_000)) -> None:
    """Makes the batches, each in a process of its own, and writes the report."""
    one = _case("embedded bundle, one process", images, "one_process", "Model")
    two = _case("embedded bundle, two actors", images, "two_actors", "Model")
    loop = _case("noise, a plain loop", CHEAP, "plain_loop", "Noise")
    in_process = _case("noise, one process", CHEAP, "one_process", "Noise")
    on_ray = _case("noise, one actor", CHEAP, "one_actor", "Noise")
    table = [one, two, loop, in_process, on_ray]
    table += [_case(f"noise, two actors, {n} rows", n, "two_actors", "Noise") for n in rows]
    costs = {
        each["what"]: each["ms a request"] - loop["ms a request"] for each in (in_process, on_ray)
    }
    facts = made_by("batch", torch.device("cpu"), images=images, rows=",".join(map(str, rows)))
    facts |= {
        "times faster with two actors": round(one["ms a request"] / two["ms a request"], 2),
        "bar": SPEED_BAR,
        "ms a request beyond a plain loop": {what: round(ms, 1) for what, ms in costs.items()},
        "bar, ms": COST_BAR_MS,
        "driver's bytes a row": _bytes_a_row(table[-len(rows) :]),
    }
    write(output, "batch", TEXT, table, "ms a request", facts)


def _case(what: str, count: int, engine: str, model: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        requests = Path(folder, "requests.jsonl")
        with requests.open("w") as file:
            for number in range(count):
                file.write(json.dumps(_row(number)) + "\n")
        measured: Measured = measure(
            f"from benchmarks.batch import {engine} as make, Load{model} as load",
            "make(folder, load)",
            folder=folder,
        )
        times = json.loads(Path(folder, "times.json").read_text())
    return {
        "what": what,
        "requests": count,
        "seconds": round(measured.seconds, 1),
        "ms a request": round(1000 * (times[-1] - times[0]) / (len(times) - 1), 2),
        "driver MB": round(measured.peak / 1e6),
    }


def _row(number: int) -> Mapping[str, Any]:
    return {
        "name": f"image-{number:07}",
        "prompt": f"a red mug on the beach {number}",
        "seed": number,
        "width": 768,
        "height": 768,
        "num_steps": 8,
    }


def _bytes_a_row(table: Sequence[Row]) -> str:
    """How much the driver's memory grows with each row, between neighbouring numbers of rows."""
    grown = []
    for fewer, more in itertools.pairwise(table):
        rows = int(str(more["requests"])) - int(str(fewer["requests"]))
        size = int(str(more["driver MB"])) - int(str(fewer["driver MB"]))
        grown.append(f"{1e6 * size / rows:.0f} up to {more['requests']}")
    return ", ".join(grown)


def LoadModel(threads: int | None) -> Any:  # noqa: N802 - takes the place of a class
    """The embedded bundle with one thread in each engine."""
    return Load(SETTINGS)(1)


class Times:
    """Notes when each image was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def start(self, total: int, done: int) -> None:
        """Nothing is shown."""

    def add(self, outcome: Outcome) -> None:
        """Notes the time of an image."""
        if outcome.status != SUCCEEDED:
            raise RuntimeError(outcome.error)
        self.times.append(time.perf_counter())

    def stop(self) -> None:
        """Nothing is shown."""


def one_process(folder: str, load: Any) -> None:
    """The requests of a folder in this process."""
    from dream_o.batch.in_process import InProcess

    _batch(folder, load, InProcess)


def one_actor(folder: str, load: Any) -> None:
    """The requests of a folder by one actor of Ray."""
    _batch(folder, load, _on_ray(1))


def two_actors(folder: str, load: Any) -> None:
    """The requests of a folder by two actors of Ray."""
    _batch(folder, load, _on_ray(2))


def _on_ray(actors: int) -> Callable[..., Any]:
    from dream_o.batch.on_ray import OnRay
    from dream_o.batch.ray_pool import Pool

    return lambda job: OnRay(job, Pool(None, actors, actors, "cpu", "offline"))


def _batch(folder: str, load: Any, engine_of: Callable[..., Any]) -> None:
    times = Times()
    batch = Batch(f"{folder}/requests.jsonl", f"{folder}/out")
    run_batch(batch, engine_of, times, load if load is LoadModel else load())
    Path(folder, "times.json").write_text(json.dumps(times.times))


def plain_loop(folder: str, load: Any) -> None:
    """The requests of a folder, generated and written without a batch around them."""
    from dream_o.server.openapi import openapi_document
    from dream_o.server.predictors import DEFAULT, load_predictor

    document = openapi_document(type(load_predictor(DEFAULT)))
    properties = document["components"]["schemas"]["Input"]["properties"]
    defaults = {name: each.get("default") for name, each in properties.items()}
    model = load()(None)
    times = []
    for line in Path(folder, "requests.jsonl").read_text().splitlines():
        inputs = defaults | json.loads(line)
        result = model.generate(request_of(inputs))
        output = {name: inputs[name] for name in ("output_format", "output_quality")}
        write_image(result.image, *output.values(), result.metadata | output, folder)
        times.append(time.perf_counter())
    Path(folder, "times.json").write_text(json.dumps(times))
