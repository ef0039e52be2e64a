"""Checkpoints and prompt models from the hub onto this disk."""

import logging
from collections.abc import Iterable

from dream_o.dream_render.registry import DOWNLOADS, HubFile
from dream_o.weights.fetch.hub import STAGING, fetch, find
from dream_o.weights.format.digests import FileRecord
from dream_o.weights.format.disk import check_space

logger = logging.getLogger(__name__)

DEFAULT_BRANCH = "main"


def download(files: Iterable[HubFile]) -> int:
    """Fetches the files that are not there yet; how many those were.

    The hub is asked about each of them, and the disk's space is checked, before the first byte. An
    interrupted download is continued the next time.

    Raises:
        BundleError: no network, no room, no such file, a licence to accept first.
    """
    found = []
    for file in files:
        if not file.path.is_file():
            repository, revision, name = file.source.hub_address
            found.append((file, find(repository, name or file.name, revision or DEFAULT_BRANCH)))
    needed = sum(answer.bytes for _, answer in found)
    check_space(DOWNLOADS, needed, "to download", "nothing was downloaded")
    for file, answer in found:
        logger.info("%s of %s, %.2f GB", answer.path, answer.repository, answer.bytes / 1e9)
        expected = FileRecord(answer.bytes, answer.sha256) if answer.sha256 else None
        # The address in an answer lasts for minutes, the files before it may take longer.
        current = find(answer.repository, answer.path, answer.commit)
        staging = DOWNLOADS / STAGING / answer.repository.replace("/", "--")
        fetch(current, staging, file.path, expected)
    return len(found)
