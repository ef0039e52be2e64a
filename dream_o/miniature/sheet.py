"""A sheet of what a bundle does: references, prompt, output, from seeds that nobody chose."""

import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dream_o.miniature.captions import vocabulary
from dream_o.miniature.evaluation import held_out_examples, make
from dream_o.miniature.examples import Example
from dream_o.pipeline import DreamOPipeline

CELL, TEXT, GAP = 256, 34, 12
ROWS = (("text", 6), ("ip", 3), ("id", 3), ("style", 3), ("id+ip", 2))


def draw_sheet(bundle: Path, side: int = 768) -> Image.Image:
    """One line a task: references and outputs of its first plain held-out examples.

    Seeds 0, 1, 2, ...

    Args:
        bundle: a folder.
        side: of the outputs, in pixels.
    """
    pipeline = DreamOPipeline.from_pretrained(bundle)
    pipeline.set_progress_bar_config(disable=True)
    lines: list[list[tuple[list[Image.Image], str]]] = []
    for task, count in ROWS:
        line = []
        for seed, example in enumerate(_plain_examples(task, count)):
            image, references = make(pipeline, example, (side, side), seed)
            line.append(([*references, image], example.prompt))
        lines.append(line)
    widths = [sum(len(pictures) for pictures, _ in line) * CELL + GAP * (len(line) - 1)
              for line in lines]  # fmt: skip
    sheet = Image.new("RGB", (max(widths), len(lines) * (CELL + TEXT + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, line in enumerate(lines):
        top, left = row * (CELL + TEXT + GAP), 0
        for pictures, prompt in line:
            for picture in pictures:
                small = picture.convert("RGBA").resize((CELL, CELL), Image.Resampling.LANCZOS)
                sheet.paste(small, (left, top + TEXT), small)
                left += CELL
            at = (left - len(pictures) * CELL + 2, top + 2)
            pen.multiline_text(at, _wrapped(prompt, 38 * len(pictures)), fill="black", font=font)
            left += GAP
    return sheet


def _plain_examples(task: str, count: int) -> list[Example]:
    """The first held-out examples whose prompts have no words put in that say nothing."""
    known = re.compile("|".join(map(re.escape, sorted(vocabulary(), key=len, reverse=True))))
    examples = held_out_examples(task, 8 * count)
    plain = [each for each in examples if all(
        known.fullmatch(word.strip(",.")) or word.startswith("[") for word in
        each.prompt.lower().replace("-", " ").split()
    )]  # fmt: skip
    return plain[:count]


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])
