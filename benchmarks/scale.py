"""`script/bench scale`: how denoising grows with image tokens, references and steps."""

import argparse
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.hardware import made_by
from benchmarks.options import as_given, bundle_option, device_option, numbers, whole
from benchmarks.plot import Point, curves
from benchmarks.report import Row, write
from dream_o.components import T5_TOKENS
from dream_o.conditioning import EncodedPrompt, EncodedReference
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime.devices import pick_device
from dream_o.runtime.threads import suited_threads
from dream_o.service.generator import DreamO
from dream_o.service.settings import SPEEDS, Settings
from dream_o.sizes import TOKEN_PIXELS

# From the smallest to the largest value of each input (width, height; references; num_steps).
SIZES = ((768, 768), (768, 896), (896, 896), (896, 1024), (1024, 1024))
REFERENCES = (0, 1, 2)
STEPS = (8, 12, 16, 20, 25, 30)
REFERENCE_SIDE = 512

TEXT = """# Growth: denoising against image tokens, references and steps

The bundle {weights}, `DREAM_O_SPEED={speed}`. Each group of rows varies one input; the others
are fixed: {width} x {height} pixels, no reference, {steps} steps. References have {side} x
{side} pixels, {reference} tokens each. *tokens* counts everything that a step attends to:
{text} text tokens, and the tokens of image and references. Seconds are medians of {repeats}
rounds; each round measures every row once. The *exponent* is the least-squares slope of the
logarithm of seconds against that of tokens (1: linear, 2: quadratic); steps are fitted with a
straight line.
Made by `script/bench scale`."""


@dataclass(frozen=True)
class Load:
    """One row to measure.

    Attributes:
        size: width and height in pixels.
        references: the number of references.
        steps: the number of steps.
    """

    size: tuple[int, int]
    references: int
    steps: int

    @property
    def image_tokens(self) -> int:
        """The number of image tokens."""
        return self.size[0] * self.size[1] // TOKEN_PIXELS**2

    @property
    def tokens(self) -> int:
        """The number of all tokens that a step attends to."""
        return T5_TOKENS + self.image_tokens + self.references * REFERENCE_TOKENS


REFERENCE_TOKENS = (REFERENCE_SIDE // TOKEN_PIXELS) ** 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    device_option(parser)
    bundle_option(parser)
    parser.add_argument("--speed", choices=SPEEDS, default="auto", help="the mode (%(default)s)")
    parser.add_argument("--repeats", type=whole, default=5, help="rounds (%(default)s)")
    parser.add_argument(
        "--size",
        type=partial(numbers, 2),
        metavar="WIDTH,HEIGHT",
        help="the only size (default: five from 768,768 to 1024,1024)",
    )


def run(
    output: Path,
    *,
    device: str = "auto",
    weights: Path = EMBEDDED_BUNDLE,
    speed: str = "auto",
    repeats: int = 5,
    size: tuple[int, int] | None = None,
    steps: Sequence[int] = STEPS,
) -> None:
    """Measures all rows alternately, fits the growth and writes the report."""
    sizes = (size,) if size else SIZES
    settings = Settings(str(weights), device, speed=speed, references="offline")
    dream_o = DreamO.load(settings)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    sweeps = {
        "image tokens": [Load(each, 0, steps[0]) for each in sizes],
        "references": [Load(sizes[0], each, steps[0]) for each in REFERENCES],
        "steps": [Load(sizes[0], 0, each) for each in steps],
    }
    loads = list(dict.fromkeys(load for sweep in sweeps.values() for load in sweep))
    seconds = measure(dream_o.pipeline, loads, repeats)
    text = TEXT.format(
        weights=weights.name,
        speed=dream_o.speed,
        width=sizes[0][0],
        height=sizes[0][1],
        steps=steps[0],
        side=REFERENCE_SIDE,
        reference=REFERENCE_TOKENS,
        text=T5_TOKENS,
        repeats=repeats,
    )
    facts = growth(sweeps, seconds) | made_by(
        "scale",
        pick_device(device),
        weights=as_given(weights),
        speed=dream_o.speed,
        repeats=repeats,
        size=",".join(map(str, size)) if size else None,
    )
    rows = [_row(name, load, seconds[load]) for name, sweep in sweeps.items() for load in sweep]
    write(output, "scale", text, rows, "s per step", facts, _plots(sweeps, seconds))


def measure(pipeline: DreamOPipeline, loads: Sequence[Load], repeats: int) -> dict[Load, float]:
    """The median seconds of each loop; the warm-up of a first run is not measured."""
    transformer = pipeline.transformer
    prompt = pipeline.encode_prompt("a red mug on a beach")
    side = REFERENCE_SIDE // TOKEN_PIXELS
    drawn = torch.randn(
        (1, side**2, transformer.config.in_channels), generator=torch.Generator().manual_seed(0)
    ).to(device=transformer.device, dtype=transformer.dtype)
    reference = EncodedReference((side, side), drawn)
    seconds: dict[Load, list[float]] = {load: [] for load in loads}
    with suited_threads(transformer):
        for load in loads:
            _loop(pipeline, prompt, reference, load, 1)
        for _ in range(repeats):
            for load in loads:
                seconds[load].append(_loop(pipeline, prompt, reference, load, load.steps))
    return {load: statistics.median(each) for load, each in seconds.items()}


def _loop(
    pipeline: DreamOPipeline,
    prompt: EncodedPrompt,
    reference: EncodedReference,
    load: Load,
    steps: int,
) -> float:
    done = pipeline(
        prompt,
        [reference] * load.references,
        width=load.size[0],
        height=load.size[1],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    return done.seconds["denoising"]


def exponent(tokens: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent of the growth of seconds with tokens, by least squares of the logarithms."""
    return line(list(map(math.log, tokens)), list(map(math.log, seconds)))[0]


def line(across: Sequence[float], up: Sequence[float]) -> tuple[float, float]:
    """The slope and intercept by least squares."""
    slope, intercept = np.polyfit(across, up, 1)
    return float(slope), float(intercept)


def growth(sweeps: dict[str, list[Load]], seconds: dict[Load, float]) -> dict[str, object]:
    """The fits to each sweep with more than one length."""
    facts: dict[str, object] = {}
    for name in ("image tokens", "references"):
        tokens = [load.tokens for load in sweeps[name]]
        if len(tokens) > 1:
            fitted = exponent(tokens, [seconds[load] for load in sweeps[name]])
            facts[f"exponent, {name}"] = round(fitted, 2)
    slope, intercept = line(
        [load.steps for load in sweeps["steps"]], [seconds[load] for load in sweeps["steps"]]
    )
    return facts | {
        "seconds per further step": round(slope, 4),
        "seconds without a step": round(intercept, 4),
    }


def _row(name: str, load: Load, seconds: float) -> Row:
    what = {
        "image tokens": f"{load.size[0]} x {load.size[1]}",
        "references": f"{load.references} reference{'s' * (load.references != 1)}",
        "steps": f"{load.steps} steps",
    }[name]
    return {
        "what": what,
        "image tokens": load.image_tokens,
        "references": load.references,
        "steps": load.steps,
        "tokens": load.tokens,
        "s denoising": round(seconds, 4),
        "s per step": round(seconds / load.steps, 5),
    }


def _plots(sweeps: dict[str, list[Load]], seconds: dict[Load, float]) -> dict[str, str]:
    by_tokens = {
        name: [Point(load.tokens, seconds[load] / load.steps) for load in sweeps[name]]
        for name in ("image tokens", "references")
    }
    by_steps = {"": [Point(load.steps, seconds[load]) for load in sweeps["steps"]]}
    return {
        "scale-tokens": curves("A step by its tokens", "tokens", "seconds per step", by_tokens),
        "scale-steps": curves("Denoising by its steps", "steps", "seconds", by_steps),
    }
