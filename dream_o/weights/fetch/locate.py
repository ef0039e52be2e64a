"""Where the weights are that a user means: a folder, a bundle on the hub, or the best one here."""

import logging
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.paths import EMBEDDED_BUNDLE, WEIGHTS
from dream_o.weights.build.recipe import RECIPES
from dream_o.weights.format.bundle import Bundle, is_bundle, read_bundle
from dream_o.weights.format.quantized import KINDS

logger = logging.getLogger(__name__)

MINIATURE = "miniature"
"""The name of the embedded bundle; a folder of that name is ./miniature."""
REMOTE = ("hf://", "https://", "http://")


def is_remote(weights: str) -> bool:
    """Whether the weights are to be fetched, and no folder of this machine."""
    return "://" in weights


def locate(weights: str | None, folder: Path = WEIGHTS) -> Bundle:
    """The bundle that is meant, read once.

    Args:
        weights: a bundle's folder; MINIATURE for the embedded one;
            `hf://owner/repository[@revision]` or the URL of a bundle's folder, which is fetched
            the first time; None for the best bundle in `folder`.
        folder: the weights folder.

    Raises BundleError when it cannot be fetched or is no bundle.
    """
    if weights is None:
        return best(folder)
    if weights == MINIATURE:
        return read_bundle(EMBEDDED_BUNDLE)
    if weights.startswith(REMOTE):
        from dream_o.weights.fetch.remote_bundle import fetch_bundle

        return fetch_bundle(weights, folder)
    if is_remote(weights):
        raise BundleError(f"a bundle comes from a folder or from {', '.join(REMOTE)} only")
    return read_bundle(Path(weights).expanduser())


def best(folder: Path) -> Bundle:
    """The bundle in the weights folder of the newest version, not quantised if there is the choice.

    The embedded miniature when there is no other. A broken one is passed over with a warning.

    Raises BundleError when there are only broken ones.
    """
    found: list[Bundle] = []
    broken = None
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.name == EMBEDDED_BUNDLE.name or not is_bundle(path):
            continue
        try:
            found.append(read_bundle(path))
        except BundleError as error:
            logger.warning("the bundle %s is passed over: %s", path.name, error)
            broken = error
    if broken and not found:
        raise broken
    if not found:
        return read_bundle(EMBEDDED_BUNDLE)
    chosen = max(found, key=_rank)
    logger.info("of %d bundles here, %s is the best", len(found), chosen.folder.name)
    return chosen


def _rank(bundle: Bundle) -> tuple[int, bool, bool]:
    versions = list(RECIPES)[::-1]
    return (
        versions.index(bundle.model_version) if bundle.model_version in versions else -1,
        bundle.turbo,
        bundle.precision not in KINDS,
    )
