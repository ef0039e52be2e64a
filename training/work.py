"""The log and the folder of a training: its recipe, and sheets of samples."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dream_o.atomic import atomic_write
from dream_o.errors import InputError

RECIPE_FILE = "recipe.json"


def log_progress() -> None:
    """Writes the log of a training to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)


def check_recipe(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Records the recipe in the folder, so that another recipe cannot continue its run.

    Raises:
        InputError: the folder contains another recipe's training.
    """
    kept = folder / RECIPE_FILE
    written = json.dumps(recipe, indent=2) + "\n"
    if not kept.exists():
        kept.write_text(written)
    elif kept.read_text() != written:
        raise InputError(
            "work",
            f"{folder.name} contains a training with another --minutes or other options; "
            "choose another folder, or use the same options",
        )


def save_once(path: Path, draw: Callable[[], Image.Image]) -> None:
    """Draws a sheet and writes it atomically, unless the file exists."""
    if path.exists():
        return
    with atomic_write(path) as file:
        draw().save(file, format="PNG")
