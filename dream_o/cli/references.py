"""`dream-o references`: shows images as the model would see them, without loading it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dream_o.cli.exit_status import FAILED, exit_status
from dream_o.errors import UserError
from dream_o.images.opening import open_image
from dream_o.references import TASKS, prepare_with_remarks
from dream_o.references.contact_sheet import reference_sheet
from dream_o.references.prepared import Prepared
from dream_o.service.backend import ready_backend
from dream_o.service.settings import Settings

# The input's name in error messages.
NAME = "ref_image1"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one line per image; returns 1 if any image is refused."""
    options = _parser().parse_args(argv)
    return exit_status(lambda: _show(options), "the contact sheet was not written")


def _show(options: argparse.Namespace) -> int:
    prepared = []
    refused = 0
    backend = ready_backend(Settings.from_environ().references, "cpu")
    for slot, path in enumerate(options.images, start=1):
        try:
            before = open_image(path, NAME)
            after, remarks = prepare_with_remarks(
                before, options.task, options.resolution, NAME, backend
            )
        except UserError as error:
            refused += 1
            print(f"refused   {path.name}: {error}")
            continue
        prepared.append(Prepared(slot, options.task, before, after, path.name, remarks))
        print(
            f"accepted  {path.name}: {after.width} x {after.height}, {prepared[-1].tokens} tokens"
        )
        for remark in remarks:
            print(f"          {path.name}: {remark}")
    print(f"{len(prepared)} accepted, {refused} refused")
    if options.sheet and prepared:
        reference_sheet(prepared).save(options.sheet)
    return FAILED if refused else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dream-o references", description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--task", choices=TASKS, default="ip", help="(default: %(default)s)")
    parser.add_argument(
        "--resolution", type=int, default=512, help="as ref_res (default: %(default)s)"
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="write a contact sheet: each image before and after",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
