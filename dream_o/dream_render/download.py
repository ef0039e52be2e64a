"""Downloads checkpoints and prompt models from the hub."""

from collections.abc import Iterable
from functools import partial

from dream_o.dream_render.registry import DOWNLOADS, HubFile
from dream_o.weights.fetch.address import DEFAULT_REVISION
from dream_o.weights.fetch.hub import STAGING, find
from dream_o.weights.fetch.manifest import exclusive
from dream_o.weights.fetch.transfer import Wanted, ask_all, fetch_files


def download(files: Iterable[HubFile]) -> int:
    """Downloads the missing files and returns their number.

    Before the first byte, every file is looked up on the hub and the disk's free space is checked.
    An interrupted download continues the next time. Only one process at a time downloads.

    Raises:
        BundleError: there is no network, not enough disk space or no such file, or a licence must
            be accepted first.
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
