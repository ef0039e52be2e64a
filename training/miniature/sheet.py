"""Draws a sheet of a bundle's results: references, prompts and outputs, with seeds 0, 1, 2, ..."""

import re
from pathlib import Path

from PIL import Image

from dream_o.pipeline import DreamOPipeline
from training.miniature.captions import vocabulary
from training.miniature.evaluation import held_out_examples, make
from training.miniature.examples import Example
from training.miniature.samples import Sample, lay_out

ROWS = (("text", 6), ("two", 3), ("worn", 3), ("ip", 3), ("id", 3), ("style", 3), ("id+ip", 2))


def draw_sheet(bundle: Path, side: int = 768) -> Image.Image:
    """Draws one line for each task: the references and outputs of its first plain examples.

    The examples are held out of training, and their seeds are 0, 1, 2, ...

    Args:
        bundle: the bundle's folder.
        side: the side of the outputs in pixels.
    """
    pipeline = DreamOPipeline.from_pretrained(bundle)
    pipeline.set_progress_bar_config(disable=True)
    lines: list[list[Sample]] = []
    for task, count in ROWS:
        line = []
        for seed, example in enumerate(_plain_examples(task, count)):
            image, references = make(pipeline, example, (side, side), seed)
            line.append(([*references, image], example.prompt))
        lines.append(line)
    return lay_out(lines)


def _plain_examples(task: str, count: int) -> list[Example]:
    """The first held-out examples whose prompts contain no filler words."""
    known = re.compile("|".join(map(re.escape, sorted(vocabulary(), key=len, reverse=True))))
    examples = held_out_examples(task, 8 * count)
    plain = [
        each
        for each in examples
        if all(
            known.fullmatch(word.strip(",.")) or word.startswith("[")
            for word in each.prompt.lower().replace("-", " ").split()
        )
    ]
    return plain[:count]
