"""`dream-o predict`: one prediction without Docker."""

import argparse
import contextlib
import inspect
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cog.predictor import extract_setup_weights, has_setup_weights

from dream_o.cli.checks import check_before_loading
from dream_o.cli.inputs_table import inputs_table
from dream_o.cli.output import REFERENCES, SHEET, Output, implied_format
from dream_o.cli.preview import check_preview, draw_preview
from dream_o.cli.reference_option import open_references, predicted, reference_inputs
from dream_o.cli.several import ContactSheet, check_count, seeds_of
from dream_o.errors import UserError
from dream_o.locked_folders import temporary_folder
from dream_o.server.inputs import open_files, parse_inputs
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, Parser, load_predictor
from dream_o.service.logs import log_to_stderr

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns the exit status.

    Prints each output's path alone on standard output, or the image itself for `-o -`; logs,
    progress and the one line `error: ...` go to standard error.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _ending_on_signals():
            arguments = _parser().parse_args(argv)
            if arguments.help:
                print(help_text(arguments.predictor))
            else:
                run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> None:
    """Makes the images and prints the path of each when it is there.

    Raises:
        UserError: an argument or input is wrong. Everything that can be checked without a model
            is checked before loading.
    """
    predictor = load_predictor(arguments.predictor)
    if arguments.preview:
        check_preview(predictor)
    check_count(arguments.count, arguments.contact_sheet, predictor)
    document = openapi_document(type(predictor))
    parsed = parse_inputs(arguments.inputs, document)
    references = reference_inputs(arguments.references, parsed, document)
    values = dict(parsed)
    if arguments.output:
        values |= implied_format(arguments.output, values, document)
    values = _defaults(predictor) | values
    seeds = seeds_of(arguments.count, values.get("seed"))
    made_as = values.get("output_format")
    sheets = {REFERENCES: arguments.preview, SHEET: arguments.contact_sheet}
    output = Output(
        arguments.output,
        f".{made_as}" if made_as else "",
        arguments.overwrite,
        len(seeds),
        [suffix for suffix, wanted in sheets.items() if wanted],
    )
    output.check()

    # All temporary files go into one folder, which is removed even if the prediction fails.
    with _own_tempdir() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            given = open_files({name: values[name] for name in parsed}, document, folder)
            inputs = values | given | open_references(references, folder)
            check_before_loading(inputs)
            log_to_stderr()
            if has_setup_weights(predictor):
                predictor.setup(weights=extract_setup_weights(predictor))
            else:
                predictor.setup()
        _make_images(predictor, inputs, seeds, output)


def _make_images(
    predictor: Any, inputs: Mapping[str, Any], seeds: Sequence[int | None], output: Output
) -> None:
    """Makes one image after the other, so that those that are done stay if a later one fails."""
    sheet = ContactSheet()
    first: Path | None = None
    for number, seed in enumerate(seeds, start=1):
        of_one = dict(inputs) if len(seeds) == 1 else {**inputs, "seed": seed}
        if len(seeds) > 1:
            print(f"image {number} of {len(seeds)}", file=sys.stderr)
        with contextlib.redirect_stdout(sys.stderr):
            made = predicted(predictor, of_one)
            wanted = number == 1 and REFERENCES in output.beside
            preview = draw_preview(predictor, of_one) if wanted else None
        if SHEET in output.beside:
            sheet.add(made, seed)
        target = output.publish(made, number)
        made.unlink()
        if target is None:
            return
        print(target, flush=True)
        first = first or target
        if preview:
            there = output.publish_beside(preview, first, REFERENCES)
            print(f"references: {there}", file=sys.stderr)
    if first and SHEET in output.beside:
        there = output.publish_beside(sheet.write(), first, SHEET)
        print(f"contact sheet: {there}", file=sys.stderr)


def help_text(predictor: str) -> str:
    """The options, and the inputs of the predictor `FILE:CLASS`."""
    document = openapi_document(type(load_predictor(predictor)))
    return f"{_parser().format_help()}\n{inputs_table(document)}"


def _parser() -> Parser:
    parser = Parser(
        prog="dream-o predict",
        description="Runs one prediction without Docker and prints the path of its output.",
        epilog="Example: dream-o predict -i prompt='a lighthouse at dusk' -i ref_image1=@photo.jpg",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and the inputs")
    parser.add_argument(
        "-p",
        dest="predictor",
        metavar="FILE:CLASS",
        default=DEFAULT,
        help="the predictor (%(default)s)",
    )
    parser.add_argument(
        "-i",
        dest="inputs",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an input; a file is NAME=@FILE or NAME=https://..., a secret is NAME=@env:VARIABLE "
        "or NAME=@FILE",
    )
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        type=Path,
        help="the image's file; its suffix sets output_format; - writes to standard output "
        "(default: output.<format>, or output-2.<format> and so on where that exists)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=int,
        default=1,
        help="make N images with consecutive seeds; -o NAME.<format> becomes NAME-1.<format> and "
        "so on",
    )
    parser.add_argument(
        "--contact-sheet",
        action="store_true",
        help="with --count: write OUTPUT.sheet.webp too, all images under their seeds",
    )
    parser.add_argument(
        "--reference",
        dest="references",
        metavar="FILE:TASK",
        action="append",
        default=[],
        help="a reference, up to nine in the order of their slots, in place of -i ref_image1 and "
        "so on; FILE may be a URL",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file of -o")
    parser.add_argument(
        "--preview",
        action="store_true",
        help="write OUTPUT.references.webp too: each reference as sent and as the model sees it",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"


def _defaults(predictor: Any) -> dict[str, Any]:
    parameters = inspect.signature(predictor.predict).parameters.values()
    return {each.name: each.default.default for each in parameters}


@contextlib.contextmanager
def _own_tempdir() -> Iterator[Path]:
    before = tempfile.tempdir
    with temporary_folder("predict") as folder:
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into exceptions, so that temporary files are removed."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
