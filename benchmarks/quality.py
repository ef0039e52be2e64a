"""`script/bench quality`: how much each speed mode and each schedule of steps changes images."""

import argparse
import gc
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from benchmarks.hardware import made_by
from benchmarks.held_out import held_out_requests
from benchmarks.measure import computed_steps
from benchmarks.options import as_given, held_out_options, offered, some_of
from benchmarks.plot import Point, curves
from benchmarks.report import Row, write
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.runtime.devices import pick_device
from dream_o.runtime.speed import MODES
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.result import Result
from dream_o.service.settings import Settings
from dream_o.step_reuse import enable_step_reuse

STEPS = 12

# The schedules: the number of first steps that are computed, then one in so many.
REUSE = ((1, 2), (2, 2), (3, 2), (4, 2), (2, 3))

TEXT = """# Quality: each speed mode against exact float32

{count} requests of the bundle {weights}: held-out prompts and references of all tasks in turn,
seeds 0, 1, 2, ... without selection, {size} x {size} pixels, {steps} steps. *PSNR* (dB)
and *largest difference* (of 255) compare the 8-bit images with those of `exact` in float32.
*PSNR* is the median of all requests, *least PSNR* the smallest. Rows *reuse A, B* run `exact` in
float32 and compute the first A steps, then every B-th, and the last; the other steps are
extrapolated. *steps over computed* is the largest possible speed-up. *times faster* is the
median of denoising seconds without reuse divided by those with it, measured in turn on the same
requests.
[Precision](precision.md) compares quantized bundles on the same requests.
Made by `script/bench quality`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    held_out_options(parser)
    some_of(parser, "--modes", MODES)


def run(
    output: Path,
    *,
    device: str = "auto",
    weights: Path = EMBEDDED_BUNDLE,
    count: int = 20,
    size: int = 768,
    modes: Sequence[str] = MODES,
    reuse: Sequence[tuple[int, int]] = REUSE,
) -> None:
    """Runs every request in every mode and schedule, and writes the report with the curve."""
    where = pick_device(device)
    runnable = offered(modes, where)
    settings = Settings(weights=str(weights), device=device, references="offline")
    with tempfile.TemporaryDirectory() as folder:
        requests = held_out_requests(Path(folder), count, size, STEPS)
        wanted, reuse_rows = _measure_reuse(settings, requests, reuse)
        rows = [_measure_mode(settings, mode, requests, wanted) for mode in runnable] + reuse_rows
    text = TEXT.format(count=count, weights=weights.name, size=size, steps=STEPS)
    facts = made_by(
        "quality", where, weights=as_given(weights), count=count, size=size, modes=",".join(modes)
    )
    plots = {"quality-reuse": reuse_curve(reuse_rows)}
    write(output, "quality", text, rows, "largest difference", facts, plots)


def psnr(ours: PIL.Image.Image, wanted: PIL.Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit images; infinite for equal ones."""
    error = np.asarray(ours, dtype=np.float64) - np.asarray(wanted, dtype=np.float64)
    mean = float((error**2).mean())
    return float("inf") if mean == 0 else float(10 * np.log10(255**2 / mean))


def largest_difference(ours: PIL.Image.Image, wanted: PIL.Image.Image) -> int:
    """The largest difference of any channel of any pixel, from 0 to 255."""
    return int(np.abs(np.asarray(ours, dtype=int) - np.asarray(wanted, dtype=int)).max())


def compare(ours: Sequence[PIL.Image.Image], wanted: Sequence[PIL.Image.Image]) -> Row:
    """PSNR, least PSNR and largest difference of pairs of images."""
    pairs = list(zip(ours, wanted, strict=True))
    ratios = [psnr(*pair) for pair in pairs]
    return {
        "PSNR": _decibels(statistics.median(ratios)),
        "least PSNR": _decibels(min(ratios)),
        "largest difference": max(largest_difference(*pair) for pair in pairs),
    }


def _decibels(ratio: float) -> float | str:
    return round(ratio, 2) if np.isfinite(ratio) else "equal"


def _measure_mode(
    settings: Settings, mode: str, requests: Sequence[Request], wanted: Sequence[PIL.Image.Image]
) -> Row:
    """Measures a mode on the settings' device, in its default dtype."""
    dream_o = load(settings, mode, "auto")
    with computed_steps(dream_o.pipeline.transformer) as computed:
        results = [dream_o.generate(request) for request in requests]
    dtype = str(dream_o.pipeline.transformer.dtype).removeprefix("torch.")
    seconds = statistics.median(each.metrics["seconds.denoising"] for each in results)
    return {
        "what": f"{mode}, {dtype}",
        "steps computed": _whole_number(len(computed) / len(requests)),
        **compare([each.image for each in results], wanted),
        "s denoising": round(seconds, 3),
    }


def _measure_reuse(
    settings: Settings, requests: Sequence[Request], reuse: Sequence[tuple[int, int]]
) -> tuple[list[PIL.Image.Image], list[Row]]:
    """Returns the images of exact float32, and a row for each schedule of skipped steps."""
    dream_o = load(settings, "exact", "float32")
    transformer = dream_o.pipeline.transformer
    dream_o.generate(requests[0])  # the warm-up of a first run is not measured
    whole_loops: list[Result] = []
    results: list[list[Result]] = []
    counts: list[list[int]] = [[] for _ in reuse]
    for request in requests:
        whole_loops.append(dream_o.generate(request))
        results.append([])
        for setting, count in zip(reuse, counts, strict=True):
            enable_step_reuse(transformer, *setting)
            with computed_steps(transformer) as computed:
                results[-1].append(dream_o.generate(request))
            transformer.disable_cache()
            count.append(len(computed))
    wanted = [each.image for each in whole_loops]
    rows: list[Row] = []
    for place, (first, every) in enumerate(reuse):
        ours = [each[place] for each in results]
        mean_computed = statistics.mean(counts[place])
        ratios = [
            whole_loop.metrics["seconds.denoising"] / each.metrics["seconds.denoising"]
            for whole_loop, each in zip(whole_loops, ours, strict=True)
        ]
        seconds = statistics.median(each.metrics["seconds.denoising"] for each in ours)
        rows.append(
            {
                "what": f"reuse {first}, {every}",
                "steps computed": _whole_number(mean_computed),
                **compare([each.image for each in ours], wanted),
                "s denoising": round(seconds, 3),
                "steps over computed": round(STEPS / mean_computed, 2),
                "times faster": round(statistics.median(ratios), 2),
            }
        )
    return wanted, rows


def load(settings: Settings, mode: str, dtype: str) -> DreamO:
    """Loads the bundle in a mode, after freeing the memory of the previous one."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    dream_o = DreamO.load(replace(settings, speed=mode, dtype=dtype))
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


def _whole_number(mean: float) -> int | float:
    return int(mean) if mean == int(mean) else round(mean, 2)


def reuse_curve(rows: Sequence[Row]) -> str:
    """Plots PSNR against the possible speed-up as SVG, with a line for each share of steps.

    Settings that do not change the image are not shown.
    """
    lines: dict[str, list[Point]] = {}
    for row in rows:
        setting = str(row["what"]).removeprefix("reuse ")
        if row["PSNR"] != "equal":
            points = lines.setdefault(f"one in {setting.partition(', ')[2]}", [])
            gained, ratio = (float(str(row[name])) for name in ("steps over computed", "PSNR"))
            points.append(Point(gained, ratio, setting))
    title = "Leaving steps out: PSNR against exact float32"
    return curves(title, f"{STEPS} steps over computed ones", "PSNR, dB", lines)
