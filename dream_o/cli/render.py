"""`dream-o render`: lists and downloads DreamRender's models and styles, and prepares keys."""

import argparse
import sys
from collections.abc import Sequence
from getpass import getpass
from pathlib import Path

from dream_o.cli.exit_status import exit_status
from dream_o.dream_render.names import unknown_name
from dream_o.dream_render.registry import (
    SAMPLER,
    ModelEntry,
    PromptModelEntry,
    Registry,
    read_registry,
)
from dream_o.dream_render.request import MODELS_LISTING
from dream_o.dream_render.styles import NO_STYLE, known_styles
from dream_o.service.logs import log_to_stderr

DEFAULT_MARK = "*"
FORM_API = "`dream-o render form-api --help` describes the form endpoint in front of a server."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 1 after a UserError, with one line `error: ...` on stderr."""
    arguments = _parser().parse_args(argv)
    return exit_status(lambda: arguments.run(arguments), "run it again to continue")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dream-o render", description=__doc__, epilog=FORM_API)
    commands = parser.add_subparsers(required=True, metavar="command")
    models = commands.add_parser("models", help="list the values of `model`, and the prompt models")
    models.set_defaults(run=_models)
    styles = commands.add_parser("styles", help="list the values of `styles`")
    styles.set_defaults(run=_styles)
    fetch = commands.add_parser("download", help="download models or prompt models from the hub")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.set_defaults(run=_download)
    hashed = commands.add_parser(
        "hash-key", help="print a salted hash of a developer key, for DREAM_RENDER_DEV_KEY_HASHES"
    )
    hashed.set_defaults(run=_hash_key)
    sheet = commands.add_parser(
        "sheet", help="write contact sheets: every style, designer on and off"
    )
    sheet.add_argument("--model", default=None, help="default: the model that `models` marks")
    sheet.add_argument("--prompt", default="a red shoe", help="(%(default)s)")
    sheet.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    sheet.add_argument("--output", type=Path, default=Path(), help="a folder (%(default)s)")
    sheet.set_defaults(run=_sheet)
    return parser


def _models(_: argparse.Namespace) -> None:
    registry = read_registry()
    rows = [
        (
            DEFAULT_MARK if name == registry.default else "",
            name,
            entry.family,
            "yes" if entry.installed else "no",
            SAMPLER,
            entry.licence,
            entry.summary,
        )
        for name, entry in registry.models.items()
    ]
    _table(("", "model", "family", "installed", "sampler", "licence", ""), rows)
    print(f"\n{DEFAULT_MARK} comes with the project and needs no download\n")
    prompt_rows = [
        (
            DEFAULT_MARK if name == "embedded" else "",
            name,
            "yes" if entry.installed else "no",
            entry.licence,
            entry.summary,
        )
        for name, entry in registry.prompt_models.items()
    ]
    _table(("", "prompt model", "installed", "licence", ""), prompt_rows)
    print(f"\n{DEFAULT_MARK} is used unless DREAM_RENDER_PROMPT_MODEL names another")


def _styles(_: argparse.Namespace) -> None:
    rows = [(DEFAULT_MARK, NO_STYLE, "the prompt unchanged")]
    rows += [("", name, style.prompt) for name, style in known_styles().items()]
    _table(("", "style", "prompt"), rows)
    print(f"\n{DEFAULT_MARK} is the default; separate several styles with commas")


def _download(arguments: argparse.Namespace) -> None:
    from dream_o.dream_render.download import download

    log_to_stderr()
    registry = read_registry()
    entries = [_named(registry, name) for name in arguments.names]
    for entry in entries:
        count = download(entry.files)
        print(f"{entry.name}: {count} files fetched" if count else f"{entry.name}: already here")


def _hash_key(_: argparse.Namespace) -> None:
    from dream_o.dream_render.keys import hash_key

    # Never read a key from an argument: the shell's history and the process list would show it.
    at_terminal = sys.stdin.isatty()
    key = getpass("Developer key: ") if at_terminal else sys.stdin.readline()
    print(hash_key(key.strip()))


def _named(registry: Registry, name: str) -> ModelEntry | PromptModelEntry:
    known: dict[str, ModelEntry | PromptModelEntry] = {
        **registry.models,
        **registry.prompt_models,
    }
    if name not in known:
        raise unknown_name("download", name, known, MODELS_LISTING)
    return known[name]


def _sheet(arguments: argparse.Namespace) -> None:
    from dream_o.dream_render.sheet import make_sheets

    registry = read_registry()
    for path in make_sheets(
        arguments.output, arguments.model or registry.default, arguments.prompt, arguments.seed
    ):
        print(path)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows in columns that are as wide as their longest text."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
