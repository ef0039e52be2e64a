"""`dream-o predict`: one prediction without Docker."""

import argparse
import contextlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cog.predictor import extract_setup_weights, has_setup_weights

from dream_o.atomic import atomic_write
from dream_o.cli.preview import check_preview, draw_preview, preview_of
from dream_o.errors import UserError
from dream_o.server.inputs import open_files, parse_inputs
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, Parser, load_predictor
from dream_o.service.logs import log_to_stderr

INTERRUPTED = 130  # 128 + SIGINT, as shells count
# Suffixes that people write for an output_format of another name.
SUFFIX_FORMATS = {"jpeg": "jpg"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit status.

    Prints the output's path alone on standard output; logs, progress and the one line
    `error: ...` go to standard error.
    """
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _ending_on_signals():
            print(run(_parser().parse_args(argv)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if "--debug" in argv:
            traceback.print_exc()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def run(arguments: argparse.Namespace) -> Path:
    """One prediction; the path of its output.

    Raises:
        UserError: what is wrong with the arguments or the inputs. Nothing is loaded before the
            inputs are known to be what the schema allows.
    """
    predictor = load_predictor(arguments.predictor)
    if arguments.preview:
        check_preview(predictor)
    document = openapi_document(type(predictor))
    values = parse_inputs(arguments.inputs, document)
    if arguments.output:
        values |= _implied_format(arguments.output, values, document)
    defaults = _defaults(predictor)
    made_as = values.get("output_format") or defaults.get("output_format")
    target = arguments.output or Path(f"output.{made_as}" if made_as else "output")
    _check_target(target)
    if arguments.preview:
        _check_target(preview_of(target))

    # All of a prediction's temporary files in one folder, gone however it ends.
    with _temporary_folder() as folder, contextlib.redirect_stdout(sys.stderr):
        inputs = defaults | open_files(values, document, folder)
        log_to_stderr()
        if has_setup_weights(predictor):
            predictor.setup(weights=extract_setup_weights(predictor))
        else:
            predictor.setup()
        made = Path(predictor.predict(**inputs))
        # The sheet first: a reference may be the very file that the output replaces.
        sheet = draw_preview(predictor, inputs) if arguments.preview else None
        publish(made, target)
        if sheet is not None:
            publish(sheet, preview_of(target))
            print(f"references: {preview_of(target)}", file=sys.stderr)
    return target


def _parser() -> Parser:
    parser = Parser(
        prog="dream-o predict",
        description="Runs one prediction without Docker and prints the path of its output.",
        epilog="Example: dream-o predict -i prompt='a lighthouse at dusk' -i ref_image1=@photo.jpg",
    )
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
        help="an input; for a file NAME=@FILE or NAME=https://...",
    )
    parser.add_argument(
        "-o",
        dest="output",
        metavar="FILE",
        type=Path,
        help="the output file (output.<format>); its suffix sets output_format if no -i does",
    )
    parser.add_argument(
        "--preview",
        action="store_true",
        help="write OUTPUT.references.webp too: each reference as sent and as the model sees it",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def publish(made: Path, target: Path) -> None:
    """Copies an output to its place; a file that is there is replaced in one moment or not."""
    with made.open("rb") as source, atomic_write(target) as file:
        shutil.copyfileobj(source, file)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"


def _defaults(predictor: Any) -> dict[str, Any]:
    parameters = inspect.signature(predictor.predict).parameters.values()
    return {each.name: each.default.default for each in parameters}


def _implied_format(
    output: Path, values: Mapping[str, Any], document: Mapping[str, Any]
) -> dict[str, str]:
    """The `output_format` that the output's suffix stands for, when no input says another."""
    formats = document["components"]["schemas"].get("output_format", {}).get("enum", [])
    suffix = output.suffix.removeprefix(".").lower()
    implied = SUFFIX_FORMATS.get(suffix, suffix)
    if implied not in formats:
        return {}
    given = values.get("output_format", implied)
    if given != implied:
        print(f"warning: {output} will hold a {given} image", file=sys.stderr)
    return {"output_format": given}


def _check_target(target: Path) -> None:
    """UserError unless a file can be written there."""
    folder = target.resolve().parent
    if target.exists() and not target.is_file():
        raise UserError(f"-o {target}: this is not a plain file; name one")
    if not folder.is_dir():
        raise UserError(f"-o {target}: there is no folder {target.parent}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder of {target} cannot be written to; use -o FILE")


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="dream-o-") as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP unwind the program, so that its temporary files go."""

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
