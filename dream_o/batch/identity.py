"""Identifies what a batch is made with: the bundle and the settings that change its images."""

import hashlib
import json
from dataclasses import replace

from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.settings import Settings
from dream_o.weights.fetch.address import is_hub_address, parse_repository
from dream_o.weights.fetch.locate import is_remote, locate
from dream_o.weights.fetch.remote_bundle import fetch_record
from dream_o.weights.format.bundle import Bundle


def identify(settings: Settings) -> tuple[str, Settings]:
    """Identifies the bundle, DREAM_O_DTYPE and DREAM_O_SPEED.

    A bundle at a web address that is not on the hub is identified by the address, others by their
    contents.

    Returns:
        A text that changes if any of the three changes, and the settings for the actors. These name
        the bundle so that every machine loads the same one: a folder by its absolute path, a branch
        of the hub by the commit that it points to now.

    Raises:
        BundleError: there is no such bundle.
    """
    weights = settings.weights
    if weights is None or not is_remote(weights):
        found = locate(weights)
        if found.folder != EMBEDDED_BUNDLE:
            settings = replace(settings, weights=str(found.folder.absolute()))
        bundle = _contents(found)
    elif is_hub_address(weights):
        address = parse_repository(weights)
        _, found, commit = fetch_record(address)
        settings = replace(settings, weights=str(replace(address, revision=commit)))
        bundle = _contents(found)
    else:
        bundle = weights
    return json.dumps([bundle, settings.dtype, settings.speed]), settings


def _contents(bundle: Bundle) -> str:
    known = [bundle.model_version, bundle.precision, bundle.dtype, bundle.turbo]
    files = {name: each.sha256 for name, each in bundle.files.items()}
    return hashlib.sha256(json.dumps([known, files], sort_keys=True).encode()).hexdigest()
