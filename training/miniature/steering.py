"""Measures what `guidance` and a negative prompt change."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from training.miniature.evaluation import (
    STEPS,
    Job,
    draw_all,
    frame_of,
    held_out_examples,
    subject_of,
)
from training.miniature.examples import Example
from training.miniature.judge import Tiles
from training.world.colours import COLOURS, shade
from training.world.drawing import Subject
from training.world.subjects import draw_subject


def steering(
    bundle: Path, count: int, size: tuple[int, int], processes: int = 1
) -> dict[str, float]:
    """The effects of `guidance` and of a negative prompt.

    Returns:
        `saturation at 1` and `saturation at 3.5`: the mean difference between a pixel's largest
        and smallest channel, from 0 to 1, at these values of `guidance`. `avoided colour without`
        and `avoided colour with`: the mean distance of things from the colour that the prompt gives
        them, from 0 to 1, without and with this colour as `neg_prompt` at `true_cfg=2`. `moved
        away`: the share of images in which this distance grows.
    """
    ways: Mapping[str, Mapping[str, Any]] = {
        "saturation at 1": {"guidance_scale": 1.0},
        "saturation at 3.5": {"guidance_scale": 3.5},
        "avoided colour without": {},
        "avoided colour with": {"true_cfg_scale": 2.0, "cfg_end_step": STEPS},
    }
    jobs: list[Job] = []
    for seed, example in enumerate(held_out_examples("text", count)):
        for name, options in ways.items():
            if name.startswith("saturation"):
                jobs.append(Job(example, size, seed, options))
            else:
                avoided = {"negative_prompt": subject_of(example.contents).colour}
                jobs.append(Job(_bare(example), size, seed, {**options, **avoided}))
    values: dict[str, list[float]] = {name: [] for name in ways}
    for job, name, (tiles, _) in zip(
        jobs, cycle(ways), draw_all(bundle, jobs, processes), strict=False
    ):
        if name.startswith("saturation"):
            value = float((tiles.max(axis=-1) - tiles.min(axis=-1)).mean() / 255)
        else:
            value = _distance_from_colour(tiles, subject_of(job.example.contents))
        values[name].append(value)
    without, away = values["avoided colour without"], values["avoided colour with"]
    moved = [after > before for before, after in zip(without, away, strict=True)]
    means = {name: float(np.mean(some)) for name, some in values.items()}
    return {**means, "moved away": float(np.mean(moved))}


def _bare(example: Example) -> Example:
    """The example with a prompt that names only the thing and its colour."""
    subject = subject_of(example.contents)
    return replace(example, prompt=f"a {subject.colour} {subject.shape}")


def _distance_from_colour(tiles: Tiles, subject: Subject) -> float:
    """The mean distance of a thing's body from its colour, from 0 to 1."""
    colour = COLOURS[subject.colour]
    colours, there = draw_subject(subject.shape, subject.colour, "plain")
    body = there & (colours != shade(colour, 0.42)).any(-1)
    frame = frame_of(tiles, False)
    seen = body[: len(frame), : frame.shape[1]]
    return float(np.abs(frame - np.array(colour))[seen].mean() / 255)
