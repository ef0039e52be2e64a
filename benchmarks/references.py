"""`script/bench references`: the time before the first step, for new and repeated requests."""

import statistics
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from benchmarks.hardware import run_today
from benchmarks.report import Row, write
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings

SIDE = 1024

TEXT = """# References: the first request with two images, and the second

Two drawn images of 1024 x 1024 pixels, `ip`, `ref_res` 1024, the embedded bundle, the offline
backend. *seconds* is the time for prompt and references, before the first denoising
step; each row is the median of five. Both requests give the same image, byte by byte.
Made by `script/bench references`."""


def run(output: Path, repeats: int = 5) -> None:
    """Measures pairs of requests, each with empty caches, and writes the report."""
    settings = Settings(weights=str(EMBEDDED_BUNDLE), device="cpu", references="offline")
    first: list[float] = []
    second: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        images = [_image(Path(folder) / f"{colour}.png", colour) for colour in ("teal", "brown")]
        request = Request(
            prompt="two things on a table",
            references=tuple(Reference(image, "ip") for image in images),
            width=768,
            height=768,
            num_steps=8,
            seed=1,
            ref_res=SIDE,
        )
        for _ in range(repeats):
            dream_o = DreamO.load(settings)
            results = [dream_o.generate(request) for _ in range(2)]
            if results[0].image.tobytes() != results[1].image.tobytes():
                raise RuntimeError("the repeated request gave another image")
            for seconds, result in zip((first, second), results, strict=True):
                spent = [result.metrics[f"seconds.{stage}"] for stage in ("prompt", "references")]
                seconds.append(sum(spent))
    medians = [statistics.median(seconds) for seconds in (first, second)]
    rows: list[Row] = [
        {"request": name, "seconds": round(median, 3)}
        for name, median in zip(("first", "second"), medians, strict=True)
    ]
    facts = run_today("references") | {"times faster": round(medians[0] / medians[1], 1)}
    write(output, "references", TEXT, rows, "seconds", facts)


def _image(path: Path, colour: str) -> Path:
    image = Image.new("RGB", (SIDE, SIDE), (214, 224, 232))
    ImageDraw.Draw(image).ellipse((240, 180, 800, 860), fill=colour)
    image.save(path)
    return path
