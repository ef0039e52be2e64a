"""`script/bench request`: the stages of an HTTP request with two references."""

import argparse
import base64
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.hardware import made_by
from benchmarks.held_out import held_out_requests
from benchmarks.options import as_given, bundle_option, device_option, some_of, whole
from benchmarks.report import Row, write
from benchmarks.server import serving
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.runtime.devices import pick_device
from dream_o.service.request import Request
from dream_o.service.settings import SPEEDS
from training.miniature.evaluation import TASKS

FORMATS = ("jpg", "webp", "png")
STAGES = ("prompt", "references", "denoising", "decoding", "encoding")
# The plotted column: the time that a faster transformer or VAE would not reduce.
OUTSIDE = "outside"

TEXT = """# A request through the HTTP server, by stages

The bundle {weights}, `DREAM_O_SPEED={speed}`; a request with two references (`id` and `ip`),
{size} x {size} pixels, {steps} steps, sent as data URLs. *cold* is the first request of a new
server; *repeated* is the same request again, the median of {repeats}. All times are
milliseconds. *whole* is measured by the client, from sending the request to the end of the
response. The stages are those of the server's metrics. *outside* is *whole* without denoising and
decoding.
Made by `script/bench request`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    device_option(parser)
    bundle_option(parser)
    parser.add_argument("--speed", choices=SPEEDS, default="auto", help="the mode (%(default)s)")
    parser.add_argument(
        "--size",
        type=whole,
        default=768,
        metavar="PIXELS",
        help="the image's side, 768 to 1024 (%(default)s)",
    )
    parser.add_argument("--steps", type=whole, default=8, metavar="N", help="8 to 30 (%(default)s)")
    parser.add_argument(
        "--repeats",
        type=whole,
        default=7,
        metavar="N",
        help="repeated requests of each format (%(default)s)",
    )
    some_of(parser, "--formats", FORMATS)


def run(
    output: Path,
    *,
    device: str = "auto",
    weights: Path = EMBEDDED_BUNDLE,
    speed: str = "auto",
    size: int = 768,
    steps: int = 8,
    repeats: int = 7,
    formats: Sequence[str] = FORMATS,
) -> None:
    """Starts a server for each format, sends it the request and writes the report."""
    where = pick_device(device)
    environment = {
        "DREAM_O_WEIGHTS": str(weights.absolute()),
        "DREAM_O_DEVICE": device,
        "DREAM_O_SPEED": speed,
        "DREAM_O_REFERENCES": "offline",
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        # The last of a round of all tasks has two references.
        *_, request = held_out_requests(Path(folder), len(TASKS), size, steps)
        for output_format in formats:
            inputs = request_inputs(request) | {"output_format": output_format}
            with serving(environment) as server:
                answers = [server.predict(inputs) for _ in range(1 + repeats)]
            cold, *repeated = (split(*answer) for answer in answers)
            rows += [
                _row(f"{output_format}, cold", [cold]),
                _row(f"{output_format}, repeated", repeated),
            ]
    ran = answers[0][0]["metrics"]["speed"]
    text = TEXT.format(weights=weights.name, speed=ran, size=size, steps=steps, repeats=repeats)
    facts = made_by(
        "request",
        where,
        weights=as_given(weights),
        speed=ran,
        size=size,
        steps=steps,
        repeats=repeats,
        formats=",".join(formats),
    )
    write(output, "request", text, rows, OUTSIDE, facts)


def request_inputs(request: Request) -> dict[str, Any]:
    """The JSON of a request, with references as data URLs."""
    inputs: dict[str, Any] = {
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "num_steps": request.num_steps,
        "seed": request.seed,
    }
    for slot, each in enumerate(request.references, start=1):
        assert each.image is not None
        content = base64.b64encode(Path(each.image).read_bytes()).decode()
        inputs[f"ref_image{slot}"] = f"data:image/png;base64,{content}"
        inputs[f"ref_task{slot}"] = each.task
    return inputs


def split(answer: Mapping[str, Any], whole_seconds: float) -> dict[str, float]:
    """The seconds of a prediction by stage, with `whole` and `outside`."""
    seconds = answer["metrics"]["seconds"]
    inside = seconds["denoising"] + seconds["decoding"]
    stages = {stage: seconds[stage] for stage in STAGES}
    return {"whole": whole_seconds, **stages, OUTSIDE: whole_seconds - inside}


def _row(name: str, requests: Sequence[Mapping[str, float]]) -> Row:
    medians = {
        part: round(1000 * statistics.median(each[part] for each in requests), 1)
        for part in requests[0]
    }
    return {"request": name, **medians}
