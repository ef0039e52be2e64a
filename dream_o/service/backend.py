"""Chooses what prepares references, and downloads its networks if the settings ask for that."""

from dataclasses import replace

from dream_o.paths import MANIFEST, REFERENCE_NETWORKS, WEIGHTS
from dream_o.references import Backend, choose_backend
from dream_o.weights.fetch.address import DEFAULT_REVISION, is_hub_address, parse_address
from dream_o.weights.fetch.manifest import Set, choose, read_manifest

SETS = "references"
"""The group of the manifest that holds the networks."""


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
        choice = "networks"
    return choose_backend(choice, REFERENCE_NETWORKS, device)


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
