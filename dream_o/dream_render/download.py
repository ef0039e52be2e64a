"""Checkpoints and prompt models from the hub onto this disk."""

from collections.abc import Iterable
from functools import partial

from dream_o.dream_render.registry import DOWNLOADS, HubFile
from dream_o.weights.fetch.address import DEFAULT_REVISION
from dream_o.weights.fetch.hub import STAGING, find
from dream_o.weights.fetch.manifest import exclusive
from dream_o.weights.fetch.transfer import Wanted, ask_all, fetch_files


def download(files: Iterable[HubFile]) -> int:
    """Fetches the files that are not there yet; how many those were.

    The hub is asked about each of them, and the disk's space is checked, before the first byte. An
    interrupted download is continued the next time. Of several processes each file is fetched by
    one.

    Raises:
        BundleError: no network, no room, no such file, a licence to accept first.
    """
    files = list(files)
    if all(file.path.is_file() for file in files):
        return 0
    with exclusive(DOWNLOADS / STAGING / "download.lock"):
        missing = [file for file in files if not file.path.is_file()]
        answers = ask_all(
            partial(
                find,
                file.source.hub_address.repository,
                file.source.hub_address.path or file.name,
                file.source.hub_address.revision or DEFAULT_REVISION,
            )
            for file in missing
        )
        wanted = [
            Wanted(
                ask=partial(find, answer.repository, answer.path, answer.commit),
                found=answer,
                staging=DOWNLOADS / STAGING / answer.repository.replace("/", "--"),
                target=file.path,
            )
            for file, answer in zip(missing, answers, strict=True)
        ]
        fetch_files(wanted, DOWNLOADS)
    return len(missing)
