"""`dream-o`: the table of commands. A command's module is imported only when it runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from dream_o.version import __version__


@dataclass(frozen=True)
class Command:
    """A row of the table.

    Attributes:
        module: holds `main(argv)`, which returns the exit status and has its own `--help`.
        summary: one line for `dream-o --help`.
    """

    module: str
    summary: str


COMMANDS = {
    "predict": Command("dream_o.cli.predict", "generate one image"),
    "page": Command("dream_o.page.main", "DreamO in the browser"),
    "serve": Command("dream_o.server.serve", "run the Cog HTTP server on this machine"),
    "batch": Command("dream_o.batch.command", "generate the images of a file of requests"),
    "references": Command("dream_o.cli.references", "show reference images as the model sees them"),
    "weights": Command("dream_o.cli.weights", "list, download, verify, fuse, quantize, info"),
    "package": Command(
        "dream_o.cli.package", "make a folder for cog build, cog predict and cog push"
    ),
    "render": Command("dream_o.cli.render", "DreamRender: models, styles, download, sheet"),
    "render form-api": Command(
        "dream_o.dream_render.form_api", "DreamRender: run the form endpoint"
    ),
}
"""Commands by name. The longest match wins."""

LONGEST = max(len(name.split()) for name in COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit status, or 1 if there is no such command."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 1
    if argv[0] == "--version":
        print(__version__)
        return 0
    for length in range(LONGEST, 0, -1):
        command = COMMANDS.get(" ".join(argv[:length]))
        if command:
            status: int = import_module(command.module).main(argv[length:])
            return status
    known = ", ".join(COMMANDS)
    print(f"error: {argv[0]}: there is no such command; the commands are {known}", file=sys.stderr)
    return 1


def usage() -> str:
    """What `dream-o --help` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["usage: dream-o COMMAND ...", "", "DreamO: images from a prompt and reference images."]
    tail = ["`dream-o COMMAND --help` shows a command's options; --version, the version."]
    return "\n".join([*head, "", *rows, "", *tail])
