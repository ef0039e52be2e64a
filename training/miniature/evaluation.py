"""Measures how often a bundle draws what the prompt says, on held-out combinations."""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from dream_o.pipeline import DreamOPipeline
from dream_o.references import prepare
from dream_o.sizes import TOKEN_PIXELS
from training.miniature.examples import Example, random_example
from training.miniature.judge import Tiles, judge, kind_of, right_on_true_renders, tiles_of
from training.miniature.pool import RESOLUTION, drawn
from training.world.drawing import Contents, Oddment, Subject, draw_thing, subject_at
from training.world.subjects import SIDE

STEPS, GUIDANCE = 12, 3.5
Scores = dict[str, bool]

# The reference tasks of each row of the report.
TASKS: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "ip": ("ip",),
    "id": ("id",),
    "style": ("style",),
    "id+ip": ("id", "ip"),
    "two": (),
    "worn": (),
}
# The attributes that prompts of these tasks name; only those of `two` name two things.
NAMED: Mapping[str, set[str]] = {
    "text": {"shape", "colour", "scene"},
    "two": {"shape", "colour", "scene", "count"},
    "worn": {"wears", "scene"},
}


def held_out_examples(task: str, count: int) -> list[Example]:
    """Held-out examples of things that have a name; the same in every call.

    The prompts of `text` and `two` name one or two things, their colour and a place; those of
    `worn` name a person with a hat or glasses, and a place.
    """
    random = np.random.default_rng(2611 + list(TASKS).index(task))
    found: list[Example] = []
    while len(found) < count:
        example = random_example(random, TASKS[task], held_out=True)
        if isinstance(example.contents.subject, Oddment):
            continue  # held out only because of its person
        if task not in NAMED or _is_asked(example, task):
            found.append(example)
    return found


def _is_asked(example: Example, task: str) -> bool:
    kind = "person" if task == "worn" else "subject"
    counted = ("count" in example.said) == (task == "two")
    return example.said["kind"] == kind and counted and example.said.keys() >= NAMED[task]


def make(
    pipeline: DreamOPipeline, example: Example, size: tuple[int, int], seed: int, **options: Any
) -> tuple[Image.Image, list[Image.Image]]:
    """The pipeline's image for an example, and the references as a user would send them."""
    random = np.random.default_rng(seed)
    images = [drawn(each, random) for each in example.references]
    prepared = [
        prepare(image, each.task, RESOLUTION, f"ref_image{slot}")
        for slot, (image, each) in enumerate(zip(images, example.references, strict=True), 1)
    ]
    output = pipeline(
        example.prompt,
        prepared,
        height=size[0],
        width=size[1],
        **{"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, **options},
        generator=torch.Generator().manual_seed(seed),
    )
    return output.images[0], images


def subject_of(contents: Contents) -> Subject:
    """The subject of an image, which must have a name."""
    assert isinstance(contents.subject, Subject)
    return contents.subject


def frame_of(tiles: np.ndarray, copied: bool) -> np.ndarray:
    """The tiles of a subject's frame, without those outside the image."""
    top, left = subject_at(copied, *tiles.shape[:2])
    return tiles[top : top + SIDE, left : left + SIDE]


def _distance(tiles: np.ndarray, subject: Subject) -> float:
    """The mean difference of an image's copied subject from a subject, 0 to 255 per channel."""
    frame = frame_of(tiles, True)
    colours, there = (each[: len(frame), : frame.shape[1]] for each in draw_thing(subject))
    return float(np.abs(frame - colours)[there].mean())


def _score_subject(tiles: np.ndarray, example: Example) -> Scores:
    shown = judge(tiles, kind_of(example.contents))
    ours, wanted = subject_of(shown), subject_of(example.contents)
    return {
        "scene": shown.scene == example.contents.scene,
        **{
            name: getattr(ours, name) == getattr(wanted, name)
            for name in ("colour", "shape", "pattern")
        },
    }


def _score_two(tiles: np.ndarray, example: Example) -> Scores:
    """Without the pattern, of which things of that size show too little."""
    shown, wanted = judge(tiles, "subject"), example.contents
    return {
        "scene": shown.scene == wanted.scene,
        **{
            name: getattr(subject_of(shown), name) == getattr(subject_of(wanted), name)
            for name in ("colour", "shape", "count")
        },
    }


def _score_person(tiles: np.ndarray, example: Example) -> Scores:
    shown, wanted = judge(tiles, "person"), example.contents
    assert shown.person is not None
    assert wanted.person is not None
    return {
        "scene": shown.scene == wanted.scene,
        **{
            name: getattr(shown.person, name) == getattr(wanted.person, name)
            for name in ("skin", "hair", "length", "shirt", "wears")
        },
    }


def _score_style(tiles: np.ndarray, example: Example) -> Scores:
    return {"palette": judge(tiles, "style").palette == example.contents.palette}


def _score_both(tiles: np.ndarray, example: Example) -> Scores:
    shown, wanted = judge(tiles, "both"), example.contents
    assert shown.person
    assert wanted.person
    person = all(
        getattr(shown.person, name) == getattr(wanted.person, name)
        for name in ("skin", "hair", "length")
    )
    ours, theirs = subject_of(shown), subject_of(wanted)
    thing = (ours.shape, ours.colour) == (theirs.shape, theirs.colour)
    return {"person": person, "subject": thing, "both": person and thing}


SCORES: Mapping[str, Callable[[np.ndarray, Example], Scores]] = {
    "text": _score_subject,
    "ip": _score_subject,
    "id": _score_person,
    "style": _score_style,
    "id+ip": _score_both,
    "two": _score_two,
    "worn": _score_person,
}


def score(task: str, tiles: Sequence[np.ndarray], examples: Sequence[Example]) -> dict[str, float]:
    """The share of correct images, by attribute.

    `ip` has one more score: how often an image is closer to its own reference's subject than to the
    next example's.
    """
    rows = [SCORES[task](*pair) for pair in zip(tiles, examples, strict=True)]
    if task == "ip" and len(examples) > 1:
        for row, made, own, other in zip(
            rows, tiles, examples, [*examples[1:], examples[0]], strict=True
        ):
            mine, theirs = subject_of(own.contents), subject_of(other.contents)
            row["nearer"] = mine == theirs or _distance(made, mine) < _distance(made, theirs)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@dataclass(frozen=True)
class Job:
    """One image to generate: an example, height and width, a seed, and other pipeline options."""

    example: Example
    size: tuple[int, int]
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)


_loaded: dict[Path, DreamOPipeline] = {}


def _load(bundle: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    _loaded[bundle] = DreamOPipeline.from_pretrained(bundle)
    _loaded[bundle].set_progress_bar_config(disable=True)


def _draw(bundle: Path, job: Job) -> tuple[Tiles, float]:
    begun = time.perf_counter()
    image, _ = make(_loaded[bundle], job.example, job.size, job.seed, **job.options)
    return tiles_of(image), time.perf_counter() - begun


def draw_all(bundle: Path, jobs: Sequence[Job], processes: int = 1) -> list[tuple[Tiles, float]]:
    """The tiles and the seconds of each job, in the jobs' order; shows a progress bar."""
    threads = max(1, torch.get_num_threads() // processes)
    draw = partial(_draw, bundle)
    if processes == 1:
        _load(bundle, threads)
        return [draw(job) for job in tqdm(jobs, unit="image")]
    # The processes are copies of one that has imported this module and computed nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(processes, context, _load, (bundle, threads)) as pool:
        return list(tqdm(pool.map(draw, jobs), total=len(jobs), unit="image"))


def evaluate(
    bundle: Path,
    count: int,
    size: tuple[int, int],
    tasks: Sequence[str] | None = None,
    processes: int = 1,
    compared: int | None = None,
) -> dict[str, Any]:
    """The scores of a bundle, measured with the pipeline that users run.

    Args:
        bundle: the bundle's folder.
        count: the number of images of each task.
        size: height and width in pixels, each at least 768.
        tasks: some of TASKS; None for all.
        processes: the number of processes, which share the threads.
        compared: the mean share `compared` covers this many of the first images; None for all.
    """
    report: dict[str, Any] = {
        "height": size[0],
        "width": size[1],
        "count": count,
        "tasks": {},
        "compared": {},
    }
    random = np.random.default_rng(0)
    true = [example.contents for task in TASKS for example in held_out_examples(task, 10)]
    report["judge"] = right_on_true_renders(random, true, *(side // TOKEN_PIXELS for side in size))
    examples = {
        task: held_out_examples(task, count) for task in (TASKS if tasks is None else tasks)
    }
    jobs = [Job(each, size, seed) for some in examples.values() for seed, each in enumerate(some)]
    made = iter(draw_all(bundle, jobs, processes))
    for task, some in examples.items():
        tiles, seconds = zip(*islice(made, count), strict=True)
        scores = score(task, tiles, some)
        report["tasks"][task] = {**scores, "seconds": round(float(np.mean(seconds)), 2)}
        first = score(task, tiles[:compared], some[:compared])
        report["compared"][task] = float(np.mean(list(first.values())))
    return report


def table(report: Mapping[str, Any]) -> str:
    """The report as text for the command line."""
    lines = [
        f"{report['width']} x {report['height']}, {report['count']} images per task, "
        f"the judge is right on {report['judge']:.0%} of true images"
    ]
    for task, scores in report["tasks"].items():
        shares = ", ".join(
            f"{name} {share:.0%}" for name, share in scores.items() if name != "seconds"
        )
        lines.append(f"{task:<6} {shares}; {scores['seconds']} s per image")
    lines += [f"{name}: {value:.3f}" for name, value in report.get("steering", {}).items()]
    return "\n".join(lines)
