"""`script/bench render`: how often DreamRender's miniature draws what the prompt says."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.hardware import run_today
from benchmarks.options import whole
from benchmarks.report import Row, write
from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.request import RenderRequest
from dream_o.dream_render.styles import known_styles
from dream_o.service.settings import Settings
from training.sd_miniature.captions import held_out_examples
from training.sd_miniature.images import Shown
from training.sd_miniature.judge import every_shown, judge, right_on_true_images, tiles_of

KEY = "a-key-for-the-benchmark"
MODEL = "miniature"
# The requests of each row, and the share of --count images in it.
WAYS: Mapping[str, tuple[Mapping[str, Any], float]] = {
    "as written, 512 x 512": ({}, 1.0),
    "enhanced, 512 x 512": ({"enhance_prompt": True}, 1.0),
    "designer, 512 x 512": ({"designer": True}, 0.25),
    "768 x 512": ({"width": 768}, 0.25),
    "512 x 768": ({"height": 768}, 0.25),
    "256 x 256": ({"width": 256, "height": 256}, 0.25),
    "enable_hr, 1024 x 1024": ({"enable_hr": True}, 0.125),
}
NEGATIVE, NEGATIVE_SHARE = "red", 0.25
SHOWN = "a red shoe"

TEXT = """# DreamRender's miniature: does it draw what the prompt says?

Held-out prompts, with the defaults of a request (30 steps, `cfg_scale` 7) and seeds 0, 1, 2, ...
without selection. Each prompt names a thing, its colour and a place or a background; the
checkpoint was not trained on images of these combinations. A judge recognises what an image shows
by the most similar one of the {candidates} images of the drawn world without a style. *all* is the
share of images on which it finds the thing, the colour and the ground of the prompt. With
`designer`, the ground should be light grey; the judge sees the image with the background that is
then made transparent. *red without* and *red with* are the shares of red things for prompts that
name no colour, without and with `negative_prompt={negative}`. *least change by a style* is the
smallest mean difference (0 to 255) between "{shown}" and the same in a style.
Made by `script/bench render`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    parser.add_argument(
        "--count", type=whole, default=200, help="prompts of the first two rows (%(default)s)"
    )


def run(output: Path, count: int) -> None:
    """Judges the embedded checkpoint and writes the report."""
    render = DreamRender.load(Settings(dev_keys=(KEY,)))
    plain = RenderRequest(
        model=MODEL, prompt=SHOWN, width=512, height=512, seed=0, enhance_prompt=False
    )
    render.generate(plain, KEY)  # loads the checkpoint
    text = TEXT.format(candidates=len(every_shown()), negative=NEGATIVE, shown=SHOWN)
    facts = run_today(f"render --count {count}") | {"judge": right_on_true_images(count)}
    rows: list[Row] = []
    for way, (options, share) in WAYS.items():
        examples = held_out_examples(max(2, round(share * count)))
        rows.append(_row(way, render, replace(plain, **options), examples))
        write(output, "render", text, rows, "all", facts)  # keeps the results so far
    facts |= _steered(render, plain, max(2, round(NEGATIVE_SHARE * count)))
    facts["least change by a style"] = _least_change(render, plain)
    write(output, "render", text, rows, "all", facts)


def _row(
    way: str,
    render: DreamRender,
    request: RenderRequest,
    examples: Sequence[tuple[str, Shown]],
) -> Row:
    right: dict[str, list[bool]] = {"colour": [], "thing": [], "ground": [], "all": []}
    begun = time.perf_counter()
    images = []
    for seed, (prompt, _) in enumerate(tqdm(examples, desc=way, unit="image")):
        image = render.generate(replace(request, prompt=prompt, seed=seed), KEY).image
        images.append(image.convert("RGB"))  # drops the alpha channel of designer's images
    seconds = (time.perf_counter() - begun) / len(examples)
    for image, (_, wanted) in zip(images, examples, strict=True):
        shown = judge(tiles_of(image))
        ground = "light grey" if request.designer else wanted.ground
        scores = {
            "colour": shown.colour == wanted.colour,
            "thing": shown.thing == wanted.thing,
            "ground": shown.ground == ground,
        }
        for name, score in (scores | {"all": all(scores.values())}).items():
            right[name].append(score)
    shares = {name: round(float(np.mean(scores)), 3) for name, scores in right.items()}
    return {"requests": way, "images": len(examples), **shares, "s per image": round(seconds, 2)}


def _steered(render: DreamRender, plain: RenderRequest, count: int) -> dict[str, object]:
    """The shares of red things for prompts without a colour."""
    things = [shown.thing for _, shown in held_out_examples(count)]

    def red(negative: str) -> float:
        requests = [
            replace(plain, prompt=f"a {thing}", seed=seed, negative_prompt=negative)
            for seed, thing in enumerate(things)
        ]
        found = [judge(tiles_of(render.generate(each, KEY).image)).colour for each in requests]
        return round(found.count(NEGATIVE) / count, 3)

    return {"red without": red(""), "red with": red(NEGATIVE)}


def _least_change(render: DreamRender, plain: RenderRequest) -> str:
    """The style with the smallest mean difference from the image without a style."""
    usual = np.asarray(render.generate(plain, KEY).image, np.float32)
    changes = {}
    for style in known_styles():
        styled = np.asarray(render.generate(replace(plain, styles=style), KEY).image, np.float32)
        changes[style] = float(np.abs(styled - usual).mean())
    least = min(changes, key=changes.__getitem__)
    return f"{changes[least]:.1f} by {least}"
