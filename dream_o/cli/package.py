"""`dream-o package`: a folder that `cog build`, `cog predict` and `cog push` take as it is."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dream_o.cli.exit_status import exit_status
from dream_o.errors import UserError
from dream_o.package.contents import (
    dream_o_baked,
    dream_o_fetched,
    dream_render,
    with_compiled,
)
from dream_o.package.folder import check_output, write_folder
from dream_o.package.plan import PREDICTORS, Plan
from dream_o.service.logs import log_to_stderr

EACH_FROM_ITS_OWN = "each from its own repository"
EPILOG = """examples:
  dream-o package weights/dream-o-int8 --output image
  dream-o package weights/dream-o-int8 --output image --fetch hf://USER/dream-o-int8
  dream-o package --predictor dream-render --checkpoint dreamshaper_8 --output image
then:
  cd image && cog build --separate-weights -t dream-o
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, 1 with one line on stderr for a UserError."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    return exit_status(lambda: _package(options), "nothing was written")


def _package(options: argparse.Namespace) -> None:
    check_output(options.output)
    plan = _plan(options)
    print(plan.describe(), flush=True)
    write_folder(plan, options.output)
    print(f"\nNext:\n  cd {options.output}\n  cog build --separate-weights -t {options.predictor}")


def _plan(options: argparse.Namespace) -> Plan:
    networks = not options.no_networks
    if options.predictor == "dream-render":
        if options.bundle:
            raise UserError("DreamRender has no bundle; name its models with --checkpoint")
        if options.fetch not in (None, EACH_FROM_ITS_OWN):
            raise UserError("DreamRender fetches each model from its own repository; use --fetch")
        return dream_render(
            options.checkpoint, options.dev_key_hash, networks, options.fetch is not None
        )
    if options.checkpoint or options.dev_key_hash:
        raise UserError("--checkpoint and --dev-key-hash go with --predictor dream-render")
    if options.fetch == EACH_FROM_ITS_OWN:
        raise UserError("--fetch needs the bundle's address, such as hf://owner/repository")
    if options.fetch is None and options.bundle is None:
        raise UserError(
            "name the bundle's folder, or use --fetch hf://owner/repository; "
            "dream-o weights fuse makes a bundle"
        )
    plan = (
        dream_o_fetched(options.fetch, options.bundle, networks)
        if options.fetch
        else dream_o_baked(options.bundle, networks)
    )
    return with_compiled(plan, options.compiled) if options.compiled else plan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dream-o package",
        description="Makes a folder that cog build, cog predict and cog push take as it is.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle",
        nargs="?",
        type=Path,
        metavar="BUNDLE",
        help="the folder that `dream-o weights fuse` or `quantize` wrote; it goes into the image",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--fetch",
        nargs="?",
        const=EACH_FROM_ITS_OWN,
        metavar="ADDRESS",
        help="setup fetches the bundle from hf://owner/repository[@revision]; for DreamRender, "
        "without an address, it fetches each checkpoint",
    )
    parser.add_argument(
        "--no-networks",
        action="store_true",
        help="leave out the networks that prepare references",
    )
    parser.add_argument("--predictor", choices=PREDICTORS, default="dream-o")
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME",
        help="DreamRender: a model or prompt model of `dream-o render models`; repeatable",
    )
    parser.add_argument(
        "--dev-key-hash",
        action="append",
        default=[],
        metavar="HASH",
        help="DreamRender: what `dream-o render hash-key` printed for a key; repeatable",
    )
    parser.add_argument(
        "--compiled",
        type=Path,
        metavar="FOLDER",
        help="compiled code that a container on the same kind of GPU left in its "
        "TORCHINDUCTOR_CACHE_DIR",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
