"""Where the weights are that a user means: a folder, a bundle on the hub, or the best one here."""

import logging
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.lora import RECIPES
from dream_o.settings import EMBEDDED_BUNDLE, ROOT
from dream_o.weights.bundle import Bundle, is_bundle, read_bundle
from dream_o.weights.quantized import KINDS

logger = logging.getLogger(__name__)

REMOTE = ("hf://", "https://", "http://")


def locate(weights: str | None, folder: Path = ROOT / "weights") -> Path:
    """The folder of the bundle that is meant.

    Args:
        weights: a bundle's folder; `hf://owner/repository[@revision]` or the URL of a bundle's
            folder, which is fetched the first time; None for the best bundle in `folder`.
        folder: the weights folder.

    Raises BundleError when it cannot be fetched.
    """
    if weights is None:
        return best(folder)
    if weights.startswith(REMOTE):
        from dream_o.weights.download import fetch_bundle

        return fetch_bundle(weights, folder)
    if "://" in weights:
        raise BundleError(f"a bundle comes from a folder or from {', '.join(REMOTE)} only")
    return Path(weights).expanduser()


def best(folder: Path) -> Path:
    """The bundle in the weights folder of the newest version, not quantised if there is the choice.

    The embedded miniature when there is no other. A broken one is passed over with a warning.

    Raises BundleError when there are only broken ones.
    """
    found, broken = {}, None
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == EMBEDDED_BUNDLE.name or not is_bundle(path):
            continue
        try:
            found[path] = read_bundle(path)
        except BundleError as error:
            logger.warning("the bundle %s is passed over: %s", path.name, error)
            broken = error
    if broken and not found:
        raise broken
    if not found:
        return EMBEDDED_BUNDLE
    chosen = max(found, key=lambda path: _rank(found[path]))
    logger.info("of %d bundles here, %s is the best", len(found), chosen.name)
    return chosen


def _rank(bundle: Bundle) -> tuple[int, bool, bool]:
    versions = list(RECIPES)[::-1]
    return (
        versions.index(bundle.model_version) if bundle.model_version in versions else -1,
        bundle.turbo,
        bundle.precision not in KINDS,
    )
