"""`script/bench preview`: the time of the page's previews, and its memory with 20 users."""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import ROOT
from benchmarks.hardware import run_today
from benchmarks.options import whole
from benchmarks.report import write
from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.request import RenderRequest
from dream_o.page import markup
from dream_o.page.desk import Desk, Job
from dream_o.page.runs import Progress, watch
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings

KEY = "a key of the benchmark"
STEPS, USERS = 12, 20
# Width and height of DreamO's images and of DreamRender's.
SIZES, RENDER_SIZE = ((768, 768), (1024, 1024)), (512, 512)
READY_SECONDS = 120

TEXT = """# The page: what does its preview cost?

Each embedded toy model makes an image of {steps} steps, with a preview after every step but the
first. The table shows the run with the median share of {runs} runs. *draw* is the time for which
the request waits while a preview is drawn. *encode* is the time to encode the preview as WebP,
which runs in parallel to the request. *share %* is the share of both in the time of the image; at
most 3 is allowed. With the real models, a step takes longer but a preview does not, so the share
is smaller.

*resident MB* is the memory of the page's process after each round. In each round, {users} users
request an image of 768 x 768 pixels and 8 steps at the same time. The first entry is the memory
before the first round.
Made by `script/bench preview`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    parser.add_argument("--runs", type=whole, default=5, help="runs of each image (%(default)s)")
    parser.add_argument(
        "--rounds", type=whole, default=4, help="rounds of all users (%(default)s; minutes each)"
    )


def run(output: Path, runs: int, rounds: int) -> None:
    """Measures both and writes the report."""
    settings = Settings(device="cpu", dev_keys=(KEY,))
    with tempfile.TemporaryDirectory() as folder:
        models = DreamO.load(settings, EMBEDDED_BUNDLE), DreamRender.load(settings)
        rows = _rows(Desk.of(*models, Path(folder)), runs)
        memory = _memory(Path(folder), rounds)
    text = TEXT.format(steps=STEPS, runs=runs, users=USERS)
    facts = run_today(f"preview --runs {runs} --rounds {rounds}") | {"resident MB": memory}
    write(output, "preview", text, rows, "share %", facts)


def _rows(desk: Desk, runs: int) -> list[Mapping[str, object]]:
    jobs: dict[str, Job] = {}
    for width, height in SIZES:
        request = Request("a red heart", width=width, height=height, num_steps=STEPS, seed=7)
        jobs[f"DreamO {width} x {height}"] = desk.job(request)
    width, height = RENDER_SIZE
    shoe = RenderRequest("miniature", "a red shoe", width, height, seed=7, steps=STEPS)
    jobs[f"DreamRender {width} x {height}"] = desk.render_job(shoe, KEY)
    for job in jobs.values():
        _measured(job)  # not counted: fills caches and fits the map of DreamRender
    rows = []
    for name, job in jobs.items():
        found = sorted((_measured(job) for _ in range(runs)), key=lambda each: each["share %"])
        rows.append({"image": name, **found[len(found) // 2]})
    return rows


def _measured(job: Job) -> dict[str, float]:
    """Measures the seconds of an image and the time of its previews."""
    draws: list[float] = []
    encodes: list[float] = []
    drawn = replace(job, draw=_timed(job.draw, draws))
    show = _timed(markup.progress, encodes)
    begun = time.perf_counter()
    generate = lambda on_step: drawn.generate(drawn.request, on_step)  # noqa: E731
    for event in watch(generate, drawn.steps, threading.Event(), drawn.draw):
        if isinstance(event, Progress) and event.preview:
            show(event, 1, 1)
    seconds = time.perf_counter() - begun
    return {
        "s": round(seconds, 2),
        "draw ms": round(1000 * sum(draws) / len(draws), 2),
        "encode ms": round(1000 * sum(encodes) / len(encodes), 2),
        "share %": round(100 * (sum(draws) + sum(encodes)) / seconds, 2),
    }


def _timed(function: Callable[..., Any] | None, spent: list[float]) -> Callable[..., Any]:
    """Wraps the function so that the seconds of each call are added to the list."""
    assert function is not None

    def timed(*arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent.append(time.perf_counter() - begun)

    return timed


def _memory(folder: Path, rounds: int) -> list[int]:
    """The resident megabytes of a page before and after each round of all users."""
    with _served(folder) as (url, process):
        resident = [process.memory_info().rss // 10**6]
        for number in range(rounds):
            with ThreadPoolExecutor(USERS) as users:
                list(users.map(lambda user: _ask(url, user), range(USERS)))
            resident.append(process.memory_info().rss // 10**6)
            print(f"round {number + 1} of {rounds}: {resident[-1]} MB", file=sys.stderr)
    return resident


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Runs a page with the embedded toy in another process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dream_o", "page", "--no-browser", "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DREAM_O_WEIGHTS": str(EMBEDDED_BUNDLE)}
    with (folder / "log").open("w") as log:
        page = subprocess.Popen(command, env=environment, stderr=log)  # noqa: S603
    try:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + READY_SECONDS
        while not _answers(url):
            if page.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the page did not start: {(folder / 'log').read_text()}")
            time.sleep(0.2)
        yield url, psutil.Process(page.pid)
    finally:
        page.terminate()
        page.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/config").is_success
    except httpx.TransportError:
        return False


def _ask(url: str, user: int) -> None:
    """Asks for an image and waits for it."""
    api = f"{url}/gradio_api"
    inputs = httpx.get(f"{api}/info").json()["named_endpoints"]["/generate"]["parameters"]
    values = {each["parameter_name"]: each["parameter_default"] for each in inputs}
    values |= {"prompt": f"a red heart, {user}", "width": 768, "height": 768, "num_steps": 8}
    call = httpx.post(f"{api}/call/generate", json={"data": [*values.values()]}).json()
    answer = httpx.get(f"{api}/call/generate/{call['event_id']}", timeout=None)  # noqa: S113
    if "event: complete" not in answer.text:
        raise RuntimeError(f"the page did not answer: {answer.text[-300:]}")
