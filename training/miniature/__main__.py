"""`python -m training.miniature`: draws references, and trains the embedded bundle."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dream_o.atomic import atomic_write
from dream_o.errors import InputError, UserError
from training.miniature.captions import contents_of
from training.miniature.reading import understand
from training.work import log_progress
from training.world.colours import PALETTES
from training.world.drawing import draw_cut_out, draw_portrait, draw_tiles, to_image
from training.world.subjects import ALL_SHAPES

TILES = 64
NEGATIVE = "negative"
"""The task of `evaluate` that measures `guidance` and negative prompts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status, 1 with one line on stderr for a UserError."""
    options = _parser().parse_args(arguments)
    log_progress()
    try:
        options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.miniature", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    draw = commands.add_parser("draw", help="draw a reference, such as 'a striped red mug'")
    draw.add_argument("text", help="what to draw: a thing or a person, with or without a place")
    draw.add_argument("file", type=Path, metavar="FILE.png")
    draw.add_argument("--palette", choices=PALETTES, help="draw the whole image in one ink")
    draw.add_argument("--seed", type=_from(0), default=0, help="seed of stars, snow and grass")
    draw.set_defaults(run=_draw)

    train = commands.add_parser("train", help="train a bundle from scratch, or continue a run")
    train.add_argument("--output", type=Path, required=True, metavar="BUNDLE")
    train.add_argument(
        "--work", type=Path, metavar="DIR", help="folder of checkpoints (default: OUTPUT.training)"
    )
    train.add_argument("--stage", default="bundle", help="the last stage to run")
    train.add_argument("--minutes", type=_from(1), help="approximate duration on two CPU cores")
    train.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    train.set_defaults(run=_train)

    sheet = commands.add_parser("sheet", help="draw a sheet of references, prompts and outputs")
    sheet.add_argument("file", type=Path, metavar="FILE.webp")
    sheet.add_argument("--weights", type=Path, metavar="BUNDLE")
    sheet.add_argument(
        "--side", type=int, default=768, help="side of the images in pixels, 768 to 1024"
    )
    sheet.set_defaults(run=_sheet)

    evaluate = commands.add_parser("evaluate", help="measure how often a bundle is right")
    evaluate.add_argument("--weights", type=Path, metavar="BUNDLE")
    evaluate.add_argument("--count", type=_from(1), default=40, help="images per task")
    evaluate.add_argument("--size", default="1024x1024", metavar="WIDTHxHEIGHT")
    evaluate.add_argument("--tasks", default="", help="such as text,ip,negative; default: all")
    evaluate.add_argument("--output", type=Path, metavar="FILE.json")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _from(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number


def _draw(options: argparse.Namespace) -> None:
    said = understand(options.text)
    if said["kind"] == "subject" and "shape" not in said:
        raise InputError(
            "text",
            f"names nothing that can be drawn; name a {', '.join(ALL_SHAPES)} or person, "
            "and optionally a colour, a pattern and a place",
        )
    contents = contents_of(said, options.palette)
    if said.keys() & {"scene", "count"} or options.palette or said["kind"] == "both":
        random = np.random.default_rng(options.seed)
        image = to_image(draw_tiles(contents, TILES, TILES, random))
    elif contents.person is not None:
        image = draw_portrait(contents.person)
    else:
        assert contents.subject is not None
        image = draw_cut_out(contents.subject)
    options.file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.file) as file:
        image.save(file, format="PNG")
    print(options.file)


def _train(options: argparse.Namespace) -> None:
    import torch

    from training.miniature.training import CPU_MINUTES, RECIPES, run

    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device", "is cuda, which this machine does not have; use cpu")
    recipe = RECIPES[options.device]
    if options.minutes:
        recipe = recipe.scaled(options.minutes / CPU_MINUTES)
    if not options.output.name:
        raise InputError("output", "must be the name of a folder")
    work = options.work or options.output.with_name(options.output.name + ".training")
    run(work, options.output, recipe, options.stage, options.device)
    print(options.output if options.stage == "bundle" else work)


def _sheet(options: argparse.Namespace) -> None:
    from dream_o.paths import EMBEDDED_BUNDLE
    from training.miniature.sheet import draw_sheet

    options.file.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(options.weights or EMBEDDED_BUNDLE, options.side).save(
        options.file, format="WEBP", lossless=True
    )
    print(options.file)


def _evaluate(options: argparse.Namespace) -> None:
    from dream_o.paths import EMBEDDED_BUNDLE
    from training.miniature.evaluation import TASKS, evaluate, table
    from training.miniature.steering import steering

    try:
        width, height = map(int, options.size.split("x"))
    except ValueError:
        raise InputError("size", "is not WIDTHxHEIGHT, such as 1024x768") from None
    known = [*TASKS, NEGATIVE]
    tasks = [part for part in options.tasks.split(",") if part] or known
    if unknown := [task for task in tasks if task not in known]:
        raise InputError("tasks", f"{unknown[0]!r} is not one of {', '.join(known)}")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    bundle, size = options.weights or EMBEDDED_BUNDLE, (height, width)
    drawn = [task for task in tasks if task != NEGATIVE]
    report = evaluate(bundle, options.count, size, drawn)
    if NEGATIVE in tasks:
        report["steering"] = steering(bundle, options.count, size)
    if options.output:
        import json

        options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))


if __name__ == "__main__":
    sys.exit(main())
