"""Finds the bundle to use: a folder, a bundle on the hub, or the best one in the weights folder."""

import logging
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.paths import EMBEDDED_BUNDLE, WEIGHTS
from dream_o.weights.build.recipe import RECIPES
from dream_o.weights.format.bundle import Bundle, is_bundle, read_bundle
from dream_o.weights.format.layout import KINDS

logger = logging.getLogger(__name__)

MINIATURE = "miniature"
"""The name of the embedded bundle; a folder of that name is ./miniature."""
REMOTE = ("hf://", "https://", "http://")


def is_remote(weights: str) -> bool:
    """Whether the weights are an address to download from, and not a local folder."""
    return "://" in weights


def locate(weights: str | None, folder: Path = WEIGHTS) -> Bundle:
    """Finds and reads a bundle.

    Args:
        weights: a bundle's folder; MINIATURE for the embedded bundle;
            `hf://owner/repository[@revision]` or the URL of a bundle's folder, which is downloaded
            once; None for the best bundle in `folder`.
        folder: the weights folder.

    Raises:
        BundleError: the bundle cannot be downloaded, or is not a bundle.
    """
    if weights is None:
        return best(folder)
    if weights == MINIATURE:
        return read_bundle(EMBEDDED_BUNDLE)
    if weights.startswith(REMOTE):
        from dream_o.weights.fetch.remote_bundle import fetch_bundle

        return fetch_bundle(weights, folder)
    if is_remote(weights):
        raise BundleError(
            f"a bundle's address must start with {', '.join(REMOTE[:-1])} or {REMOTE[-1]}"
        )
    return read_bundle(Path(weights).expanduser())


def best(folder: Path) -> Bundle:
    """The best bundle in the weights folder, or the embedded miniature if the folder has none.

    A newer model version is better, then one with turbo, then one that is not quantized. Damaged
    bundles are skipped with a warning.

    Raises:
        BundleError: all bundles in the folder are damaged.
    """
    found: list[Bundle] = []
    broken = None
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name == EMBEDDED_BUNDLE.name or not is_bundle(path):
            continue
        try:
            found.append(read_bundle(path))
        except BundleError as error:
            logger.warning("the bundle %s is skipped: %s", path.name, error)
            broken = error
    if broken and not found:
        raise broken
    if not found:
        return read_bundle(EMBEDDED_BUNDLE)
    chosen = max(found, key=_rank)
    logger.info("using %s, the best of %d bundles", chosen.folder.name, len(found))
    return chosen


def _rank(bundle: Bundle) -> tuple[int, bool, bool]:
    versions = list(RECIPES)[::-1]
    return (
        versions.index(bundle.model_version) if bundle.model_version in versions else -1,
        bundle.turbo,
        bundle.precision not in KINDS,
    )
