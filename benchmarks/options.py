"""Options that several benchmarks share."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dream_o.errors import SettingError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.runtime.speed import choose_speed


def whole(text: str) -> int:
    """Parses a whole number above 0; argparse reports other texts."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def numbers(count: int, text: str) -> tuple[int, ...]:
    """Parses `count` whole numbers above 0, such as `2,4`; argparse reports other texts."""
    parts = text.split(",")
    if len(parts) != count or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not {count} numbers such as 2,4")
    return tuple(map(int, parts))


def some_of(parser: argparse.ArgumentParser, name: str, choices: Sequence[str]) -> None:
    """Adds an option with some of the choices; the default is all of them."""

    def chosen(text: str) -> tuple[str, ...]:
        parts = text.split(",")
        if wrong := [part for part in parts if part not in choices]:
            allowed = ", ".join(choices)
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {allowed}")
        return tuple(each for each in choices if each in parts)

    parser.add_argument(
        name,
        type=chosen,
        default=tuple(choices),
        metavar="NAME,NAME",
        help=f"some of {', '.join(choices)} (default: all)",
    )


def device_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`."""

    def named(text: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
            raise argparse.ArgumentTypeError(f"{text!r} is not auto, cuda, cuda:N or cpu")
        return text

    parser.add_argument(
        "--device", type=named, default="auto", help="auto, cuda, cuda:N or cpu (%(default)s)"
    )


def bundle_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights`."""
    parser.add_argument(
        "--weights",
        type=Path,
        default=EMBEDDED_BUNDLE,
        metavar="BUNDLE",
        help="a bundle's folder (default: the embedded one)",
    )


def held_out_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`, `--weights`, and the number and size of the held-out requests."""
    device_option(parser)
    bundle_option(parser)
    parser.add_argument("--count", type=whole, default=20, help="requests (%(default)s)")
    parser.add_argument(
        "--size", type=whole, default=768, metavar="PIXELS", help="the image's side (%(default)s)"
    )


def as_given(weights: Path) -> str | None:
    """The value of `--weights` in a report's command: without its folder; None for the default."""
    return None if weights == EMBEDDED_BUNDLE else weights.name


def offered(modes: Sequence[str], device: torch.device) -> list[str]:
    """The speed modes that run on this machine; reports the others on stderr.

    Raises:
        SettingError: none of the modes runs.
    """
    offer: list[str] = []
    problem: SettingError | None = None
    for mode in modes:
        try:
            offer.append(choose_speed(mode, device))
        except SettingError as error:
            problem = error
            print(f"{mode} is skipped: {error}", file=sys.stderr)
    if problem and not offer:
        raise problem
    return offer
