"""Chooses what prepares references, and downloads its networks if the settings ask for that."""

from dataclasses import replace
from functools import lru_cache

from dream_o.paths import MANIFEST, REFERENCE_NETWORKS, WEIGHTS
from dream_o.references import OFFLINE, Backend, choose_backend
from dream_o.references.networks import FILES
from dream_o.weights.fetch.address import DEFAULT_REVISION, is_hub_address, parse_address
from dream_o.weights.fetch.manifest import Set, choose, read_manifest

SETS = "references"
"""The group of the manifest that holds the networks."""
NETWORKS = "networks"


def ready_backend(choice: str, device: str) -> Backend:
    """The backend that DREAM_O_REFERENCES names.

    Args:
        choice: a choice of `choose_backend`; or `fetch` to download the networks from their own
            repositories; or `hf://owner/repository[@revision]/folder` to download them from there.
            Downloads must match the digests in the manifest.
        device: a torch device's name.

    Raises:
        SettingError: the choice is `networks` and a file is missing.
        BundleError: a network cannot be downloaded.
    """
    if choice == "fetch" or is_hub_address(choice):
        from dream_o.weights.fetch.download import download

        sets = choose(read_manifest(MANIFEST), [SETS])
        download(WEIGHTS, [_at(each, choice) for each in sets] if choice != "fetch" else sets)
        choice = NETWORKS
    return choose_backend(choice, REFERENCE_NETWORKS, device)


def backend_name(choice: str) -> str:
    """The name of the backend that `ready_backend` chooses, without loading or downloading it."""
    if choice == "auto":
        there = all((REFERENCE_NETWORKS / file).is_file() for file in FILES)
        return NETWORKS if there else OFFLINE.name
    return OFFLINE.name if choice == OFFLINE.name else NETWORKS


@lru_cache(1)
def cpu_backend(choice: str) -> Backend:
    """Returns `ready_backend` on the CPU; each process loads the networks only once.

    Raises:
        SettingError, BundleError: as `ready_backend` does.
    """
    return ready_backend(choice, "cpu")


def _at(each: Set, text: str) -> Set:
    """The same files, with the same digests, in another repository."""
    address = parse_address(text)
    below = f"{address.path}/" if address.path else ""
    return replace(
        each,
        repository=address.repository,
        revision=address.revision or DEFAULT_REVISION,
        files=tuple(replace(file, path=below + file.path) for file in each.files),
    )
