"""`script/bench denoise`: each speed mode against a plain loop, on random weights."""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.flops import plain_step_flops, step_flops
from benchmarks.hardware import made_by, matmul_rate
from benchmarks.measure import computed_steps
from benchmarks.options import device_option, numbers, offered, some_of, whole
from benchmarks.plain import as_diffusers_made_it, plain_loop
from benchmarks.random_model import (
    REFERENCE_SIDE,
    Inputs,
    quantized_pipeline,
    random_inputs,
    random_pipeline,
)
from benchmarks.report import Row, write
from dream_o.components import T5_TOKENS
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime.devices import pick_device, pick_dtype
from dream_o.runtime.layers import has_int8
from dream_o.runtime.offload import has_float8
from dream_o.runtime.speed import MODES, apply_speed, prepare_blocks
from dream_o.sizes import check_size
from dream_o.stopwatch import Stopwatch

REFERENCES = (0, 1, 2)
# `fast` skips steps, so only a loop with all the turbo bundle's steps shows its speed.
LOOP_STEPS = 12
GUIDANCE = 3.5

TEXT = """# Denoising: each speed mode against a plain loop

A transformer of FLUX.1's architecture with random weights, {width} wide with {double}
double-stream and {single} single-stream blocks (FLUX.1: 3072, 19, 38), {dtype}; an image of
{size} x {size} pixels, {text} text tokens, references of {side} x {side} pixels. *plain* is the
original's loop with the same weights: diffusers' blocks, not compiled, which compute everything
for all tokens in every step. The two loops are measured alternately. Seconds are medians of
{repeats} loops of {steps} steps, and for `fast` of {loop_repeats} loops of {loop_steps} steps:
it skips steps, so its seconds and operations are divided by all of them. *times faster* is plain
divided by the mode. *difference* is the relative L2 distance of the resulting latents. Operations
are those of the mode's matrix products; *share* is their rate divided by the rate of one product of
large matrices in the same run.{eight_bits}
Made by `script/bench denoise`."""

EIGHT_BITS_TEXT = """ *fast, int8* and
*fast, fp8* use 8-bit weights and products, as with such bundles; their share also refers to the
rate of products that are not in eight bits."""


@dataclass(frozen=True)
class Usual:
    """The default options."""

    heads: int
    blocks: tuple[int, int]
    size: int
    steps: int
    repeats: int
    loop_repeats: int


# On a CPU, an eighth of the width and a tenth of the blocks, so that a run takes minutes.
USUAL = {
    "cuda": Usual(heads=24, blocks=(19, 38), size=1024, steps=12, repeats=5, loop_repeats=5),
    "cpu": Usual(heads=3, blocks=(2, 4), size=768, steps=2, repeats=3, loop_repeats=1),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    device_option(parser)
    for name, kind, metavar, told in (
        ("--size", whole, "PIXELS", "the image's side (1024 on CUDA, 768 elsewhere)"),
        (
            "--blocks",
            partial(numbers, 2),
            "DOUBLE,SINGLE",
            "blocks of either kind (19,38 on CUDA, 2,4 elsewhere)",
        ),
        ("--steps", whole, "N", "steps of a loop of exact and compiled (12 on CUDA, 2 elsewhere)"),
        ("--repeats", whole, "N", "loops of each (5 on CUDA, elsewhere 3, and 1 of fast)"),
    ):
        parser.add_argument(name, type=kind, metavar=metavar, help=told)
    some_of(parser, "--modes", MODES)


def run(
    output: Path,
    *,
    device: str = "auto",
    size: int | None = None,
    blocks: tuple[int, int] | None = None,
    steps: int | None = None,
    repeats: int | None = None,
    modes: Sequence[str] = MODES,
) -> None:
    """Creates the transformer, measures each mode and the plain loop, and writes the report."""
    where = pick_device(device)
    dtype = pick_dtype("auto", where)
    usual = USUAL.get(where.type, USUAL["cpu"])
    size, blocks, steps = size or usual.size, blocks or usual.blocks, steps or usual.steps
    check_size("--size", size)
    pipeline = random_pipeline(usual.heads, blocks, where, dtype)
    rate = matmul_rate(where, dtype)
    counted = {
        mode: (LOOP_STEPS, repeats or usual.loop_repeats)
        if mode == "fast"
        else (steps, repeats or usual.repeats)
        for mode in offered(modes, where)
    }
    pipelines = dict.fromkeys(counted, pipeline)
    eight_bits = {"int8": has_int8(where), "fp8": has_float8(where)}
    for kind in (each for each, there in eight_bits.items() if there and "fast" in counted):
        name = f"fast, {kind}"
        counted[name], pipelines[name] = counted["fast"], quantized_pipeline(pipeline, kind)
    rows: list[Row] = []
    for name, (loop_steps, loops) in counted.items():
        mode, ours = name.partition(",")[0], pipelines[name]
        prepare_blocks(ours.transformer, mode, "none", where)
        apply_speed(ours, mode, partial(_warm_up, ours, size))
        rows += [
            measure_mode(
                name, ours, pipeline, random_inputs(pipeline, size, count), loop_steps, loops, rate
            )
            for count in REFERENCES
        ]
    text = TEXT.format(
        width=pipeline.transformer.inner_dim,
        double=blocks[0],
        single=blocks[1],
        size=size,
        dtype=str(dtype).removeprefix("torch."),
        text=T5_TOKENS,
        side=REFERENCE_SIDE,
        steps=steps,
        repeats=repeats or usual.repeats,
        loop_repeats=repeats or usual.loop_repeats,
        loop_steps=LOOP_STEPS,
        eight_bits=EIGHT_BITS_TEXT if any("," in name for name in counted) else "",
    )
    facts = {
        "matrix product, TFLOP/s": round(rate / 1e12, 4),
        **made_by(
            "denoise",
            where,
            size=size,
            blocks="{},{}".format(*blocks),
            steps=steps,
            repeats=repeats,
            modes=",".join(mode for mode in counted if mode in MODES),
        ),
    }
    write(output, "denoise", text, rows, "times faster", facts)


def mode_loop(
    pipeline: DreamOPipeline,
    inputs: Inputs,
    steps: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[torch.Tensor, float]:
    """The latents and seconds of the pipeline's denoising in its present mode."""

    def step_end(
        _: DreamOPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        on_step(step)
        return {}

    done = pipeline(
        inputs.prompt,
        inputs.references,
        height=inputs.size,
        width=inputs.size,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        latents=inputs.noise,
        output_type="latent",
        callback_on_step_end=step_end,
        callback_on_step_end_tensor_inputs=(),
    )
    return done.images, done.seconds["denoising"]


def timed_plain_loop(
    pipeline: DreamOPipeline, inputs: Inputs, steps: int
) -> tuple[torch.Tensor, float]:
    """The latents and seconds of the plain loop."""
    stopwatch = Stopwatch(inputs.noise.device)
    with as_diffusers_made_it(pipeline.transformer), stopwatch.stage("loop"):
        latents = plain_loop(
            pipeline.transformer,
            pipeline.scheduler,
            inputs.noise,
            inputs.grid,
            inputs.prompt,
            inputs.references,
            steps,
            GUIDANCE,
        )
    return latents, stopwatch.seconds["loop"]


def measure_mode(
    name: str,
    pipeline: DreamOPipeline,
    original: DreamOPipeline,
    inputs: Inputs,
    steps: int,
    repeats: int,
    rate: float,
) -> Row:
    """Measures a mode; returns a row of the report.

    Args:
        name: the name of the row.
        pipeline: a pipeline in this mode.
        original: the pipeline for the plain loop, with the weights before quantization.
        inputs, steps, repeats: the inputs, steps and number of both loops.
        rate: the rate of the matrix product in operations a second.
    """
    # The warm-up of a first run is not measured.
    timed_plain_loop(original, inputs, 1)
    mode_loop(pipeline, inputs, 1)
    plain_seconds, mode_seconds = [], []
    for _ in range(repeats):
        wanted, seconds = timed_plain_loop(original, inputs, steps)
        plain_seconds.append(seconds)
        with computed_steps(pipeline.transformer) as computed:
            latents, seconds = mode_loop(pipeline, inputs, steps)
        mode_seconds.append(seconds)
    plain, ours = statistics.median(plain_seconds), statistics.median(mode_seconds)
    flops = len(computed) * step_flops(pipeline.transformer, inputs.tokens)
    plain_flops = steps * plain_step_flops(pipeline.transformer, inputs.tokens)
    count = len(inputs.references)
    row = {
        "mode": f"{name}, {count} reference{'s' * (count != 1)}",
        "tokens": inputs.tokens.all,
        "steps computed": f"{len(computed)} of {steps}",
        "s per step": round(ours / steps, 4),
        "plain s per step": round(plain / steps, 4),
        "times faster": round(plain / ours, 2),
        "TFLOP/s": round(flops / ours / 1e12, 4),
        "share": round(flops / ours / rate, 3),
        "plain share": round(plain_flops / plain / rate, 3),
        "difference": f"{relative_difference(latents, wanted):.1e}",
    }
    if inputs.noise.device.type == "cuda":
        row |= watch_loop(
            pipeline,
            inputs,
            steps,
            torch.cuda.set_sync_debug_mode,
            partial(torch.cuda.memory_allocated, inputs.noise.device),
        )
    return row


def relative_difference(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    """The L2 norm of the difference divided by that of `wanted`."""
    return float((ours.double() - wanted.double()).norm() / wanted.double().norm())


def watch_loop(
    pipeline: DreamOPipeline,
    inputs: Inputs,
    steps: int,
    forbid_waiting: Callable[[str], object],
    allocated: Callable[[], int],
) -> dict[str, object]:
    """Whether the program waits for the device during the loop, and how much its memory grows.

    Growth is counted in bytes from the third step on, because step reuse keeps tensors of the first
    two.

    Args:
        forbid_waiting: called with `error` and then `default`, `torch.cuda.set_sync_debug_mode`.
        allocated: returns the allocated bytes, `torch.cuda.memory_allocated`.
    """
    held: list[int] = []

    def on_step(step: int) -> None:
        held.append(allocated())
        if step == steps - 1:
            forbid_waiting("default")

    def before_step(*_: object) -> None:
        forbid_waiting("error")

    hook = pipeline.transformer.register_forward_pre_hook(before_step)
    try:
        mode_loop(pipeline, inputs, steps, on_step)
        waits = "no"
    except RuntimeError as error:
        waits = str(error).splitlines()[0]
    finally:
        hook.remove()
        forbid_waiting("default")
    settled = held[2:] or held[-1:] or [0]
    return {"waits in the loop": waits, "bytes grown": max(settled) - settled[0]}


def _warm_up(pipeline: DreamOPipeline, size: int) -> None:
    for references in REFERENCES[:2]:
        mode_loop(pipeline, random_inputs(pipeline, size, references), 1)
