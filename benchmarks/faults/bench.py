"""`script/bench faults`: what bad input, load, kills and a full disk do to the servers."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks import ROOT
from benchmarks.faults import fuzz, images
from benchmarks.faults.kills import dropped_clients, endings, full_disk, kills
from benchmarks.faults.served import Served, scratch, until
from benchmarks.faults.soak import soak
from benchmarks.hardware import machine
from benchmarks.options import whole
from benchmarks.report import Row, table
from dream_o.errors import UserError
from dream_o.weights.build.fuse import fuse

KEY = "a-key-of-the-faults-benchmark"
RENDER = "predict.py:DreamRenderPredictor"
# The smallest bundle there is: the faults are the server's, not the model's.
PARITY = ROOT / "tests" / "data" / "parity"

TEXT = """# Faults

What bad input, load, kills and a full disk do to the servers: `script/serve --restart` with both
predictors, and DreamRender's form endpoint, on a small model and a CPU. A run fails if an answer is
a 5xx that is not by design (503, busy or starting), or has a traceback or a path in it; if a file
stays in the temporary folder; if memory grows by more than 3% from a fifth of the requests to the
next; if a kill is not answered within 5 s; or if the next request fails.
Made by `script/bench faults`; `--short` is what continuous integration runs."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command line's."""
    parser.add_argument(
        "--short", action="store_true", help="a minute of everything that needs no installation"
    )
    parser.add_argument(
        "--requests", type=whole, default=1000, metavar="N", help="of the soak (%(default)s)"
    )
    parser.add_argument(
        "--kills",
        dest="killed",
        type=whole,
        default=20,
        metavar="N",
        help="of worker and server (%(default)s)",
    )
    parser.add_argument(
        "--fuzz-seconds",
        type=whole,
        default=300,
        metavar="N",
        help="of schemathesis on each of the three servers, and of atheris (%(default)s)",
    )


def run(short: bool, requests: int, killed: int, fuzz_seconds: int, output: Path) -> None:
    """Runs the attacks and writes the page.

    Raises:
        UserError: a server did what it should not; the page says what.
    """
    begun, load = time.monotonic(), round(os.getloadavg()[0], 1)
    rows: list[Row] = []
    problems: list[str] = []

    def facts() -> Row:
        return {
            "problems": len(problems),
            "minutes": round((time.monotonic() - begun) / 60, 1),
            "command": " ".join(["script/bench faults", *sys.argv[2:]]),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine() | {"load before": load},
        }

    def add(*found: Row) -> None:
        rows.extend(found)
        for each in found:
            print(f"{each['test']}: {each['cases']} cases: {each['result']}", file=sys.stderr)
        # After each attack, so that a run that is stopped leaves its results.
        _write(output, rows, facts(), problems)

    add(images.attack(images.crafted(), "crafted images", problems))
    add(images.attack(images.damaged(300 if short else 2000), "damaged images", problems))
    with scratch() as name:
        folder = Path(name)
        fuse(PARITY / "base", PARITY / "adapters", "v1.1", folder / "bundle", turbo=True)
        environment = {"DREAM_O_WEIGHTS": str(folder / "bundle")}
        with Served(folder / "dream-o", environment) as served:
            setup = served.ready()
            add(*soak(served, 12 if short else requests))
            add(dropped_clients(served, 20 if short else 200))
            add(kills(served, 2 if short else killed, setup))
            if not short:
                address = f"{served.url}/openapi.json"
                add(fuzz.schemathesis(served, "schemathesis, dream-o", address, fuzz_seconds, []))
            problems += served.problems
        if not short:
            add(endings(folder, environment, problems))
            add(full_disk(folder, environment, problems))
            for attack in (_render, _form):
                add(attack(folder, fuzz_seconds, problems))
            add(fuzz.atheris(fuzz_seconds, folder / "atheris", problems))
    _write(output, rows, facts(), problems)
    print(table(rows))
    if problems:
        raise UserError(f"{len(problems)} problems: {'; '.join(problems[:5])}")


def _render(folder: Path, seconds: int, problems: list[str]) -> Row:
    with _dream_render(folder / "render") as served:
        row = fuzz.schemathesis(
            served, "schemathesis, DreamRender", f"{served.url}/openapi.json", seconds, []
        )
        problems += served.problems
    return row


def _form(folder: Path, seconds: int, problems: list[str]) -> Row:
    with _dream_render(folder / "form") as served, _form_endpoint(served) as url:
        row = fuzz.schemathesis(
            served, "schemathesis, form endpoint", f"{url}/openapi.json", seconds, []
        )
        problems += served.problems
    return row


@contextmanager
def _dream_render(folder: Path) -> Iterator[Served]:
    environment = {"DREAM_RENDER_DEV_KEYS": KEY}
    with Served(folder, environment, "-p", RENDER) as served:
        served.ready()
        yield served


@contextmanager
def _form_endpoint(served: Served) -> Iterator[str]:
    port = served.port + 1
    url = f"http://127.0.0.1:{port}"
    command = ["render", "form-api", "--target", served.url, "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", "dream_o", *command],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/openapi.json", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, "the form endpoint", served.log)
        yield url
    finally:
        process.terminate()
        process.wait()


def _write(folder: Path, rows: list[Row], facts: Mapping[str, object], problems: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result = {"rows": [dict(row) for row in rows], "problems_found": problems, **facts}
    (folder / "faults.json").write_text(json.dumps(result, indent=2) + "\n")
    told = "\n".join(f"- {key}: {held}" for key, held in facts.items())
    listed = "".join(f"\n- problem: {each}" for each in problems)
    (folder / "faults.md").write_text(f"{TEXT}\n\n{table(rows)}\n\n{told}{listed}\n")
