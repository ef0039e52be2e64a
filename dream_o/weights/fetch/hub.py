"""What the Hugging Face hub, or a web server, says of a file; its refusals in one sentence.

`HF_TOKEN` and `HF_ENDPOINT` are huggingface_hub's own variables.
"""

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from dream_o.errors import BundleError
from dream_o.weights.format.disk import disk_problem

STAGING = ".downloads"
"""The folder, in the weights folder, where files are until they are whole and verified."""

_LFS_ETAG = re.compile(r"[0-9a-f]{64}")
# Of a small file the hub gives the SHA-1 under which git holds it.
_GIT_ETAG = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Found:
    """A file as the hub describes it.

    Attributes:
        repository: on the hub, or a URL of another server.
        path: in the repository.
        commit: what the revision stands for now.
        bytes: its size.
        sha256: its digest, None for small files, of which the hub gives no such digest.
        etag: what tells this content from others.
        url: where its bytes are, for a while.
    """

    repository: str
    path: str
    commit: str
    bytes: int
    sha256: str | None
    etag: str
    url: str


Question = Callable[[], Found]
"""Asks about one file, each time anew."""


def endpoint() -> str:
    """The hub's address, which HF_ENDPOINT may change; BundleError when that is no address."""
    from huggingface_hub import constants

    address: str = constants.ENDPOINT
    if not is_plain_url(address):
        raise BundleError(
            "HF_ENDPOINT is not an address such as https://huggingface.co, without user name, "
            "password or query"
        )
    return address


def is_plain_url(url: str) -> bool:
    """Whether it is an http(s) URL of ASCII that names a host and holds nothing secret.

    What it holds is shown in messages and names folders: no user name, password, query, fragment.
    """
    try:
        parts = urlsplit(url)
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = "@" not in parts.netloc and not set("?#") & set(url)
    printable = url.isascii() and url.isprintable() and " " not in url
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port_is_right
        and plain
        and printable
    )


def find(repository: str, path: str, revision: str) -> Found:
    """Asks the hub about a file, without fetching it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repository, path, revision=revision, endpoint=endpoint())
    with one_sentence(repository, path, revision):
        metadata = get_hf_file_metadata(url, endpoint=endpoint())
    if metadata.commit_hash is None or metadata.size is None or metadata.etag is None:
        raise BundleError(f"the hub's answer about {path} of {repository} is incomplete")
    digest = metadata.etag if _LFS_ETAG.fullmatch(metadata.etag) else None
    return Found(
        repository,
        path,
        metadata.commit_hash,
        metadata.size,
        digest,
        metadata.etag,
        metadata.location or url,
    )


def find_on_web(folder: str, path: str) -> Found:
    """Asks any web server about a file below a URL."""
    from huggingface_hub import get_hf_file_metadata

    url = f"{folder.rstrip('/')}/{path}"
    with one_sentence(folder, path, ""):
        metadata = get_hf_file_metadata(url, token=False)
    if metadata.size is None:
        raise BundleError(f"{folder} does not tell the size of {path}")
    etag = hashlib.sha256(f"{url} {metadata.size} {metadata.etag}".encode()).hexdigest()
    return Found(folder, path, "", metadata.size, None, etag, metadata.location or url)


def is_git_sha1(etag: str) -> bool:
    """Whether a tag is the SHA-1 under which git holds a small file."""
    return _GIT_ETAG.fullmatch(etag) is not None


def headers_for(url: str) -> dict[str, str]:
    """What a request for a file's bytes says of who asks."""
    from huggingface_hub.utils import build_hf_headers

    # The token goes to the hub alone, not to the store that a large file's bytes come from.
    to_hub = urlsplit(url).netloc == urlsplit(endpoint()).netloc
    return build_hf_headers(token=None if to_hub else False)


@contextmanager
def one_sentence(repository: str, path: str, revision: str) -> Iterator[None]:
    """Turns what the hub's client raises into a BundleError that says what to do."""
    import httpx2
    from huggingface_hub import errors

    on_web = repository.startswith(("http://", "https://"))
    page = repository if on_web else f"{endpoint()}/{repository}"
    server = repository if on_web else endpoint()
    what = f"{path} of {repository}"
    unreachable = (
        f"{what} cannot be fetched: no connection to {server}; check the network, "
        "or set HF_ENDPOINT to a mirror"
    )
    try:
        yield
    except errors.GatedRepoError:
        problem = (
            f"{repository} is gated: accept its licence at {page} and set HF_TOKEN to a token of "
            "that account"
        )
    except errors.RevisionNotFoundError:
        problem = f"{repository} has no revision {revision!r}"
    except errors.LocalEntryNotFoundError as error:
        problem = _status_problem(_status(error), what, page) or unreachable
    except errors.RemoteEntryNotFoundError:
        problem = f"{repository} has no file {path} at {revision!r}"
    except errors.RepositoryNotFoundError as error:
        problem = _status_problem(_status(error), what, page) or (
            f"{repository} was not found at {server}; check the name, and HF_TOKEN if it is private"
        )
    except errors.HfHubHTTPError as error:
        problem = _status_problem(_status(error), what, page) or (
            f"{what} cannot be fetched: the server answered {_status(error)}; try again later"
        )
    except errors.OfflineModeIsEnabled:
        problem = f"{what} cannot be fetched: HF_HUB_OFFLINE is set; unset it"
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        problem = unreachable
    except (httpx2.HTTPError, ConnectionError, TimeoutError) as error:
        problem = (
            f"{what} cannot be fetched: {type(error).__name__} on the connection to "
            f"{server}; run it again to continue"
        )
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            problem = f"{disk_problem(error)}: {what} was not finished; make room and run it again"
        elif "Consistency check failed" in str(error):
            problem = f"{what} came with another size than announced; run it again"
        else:
            problem = f"{what} cannot be fetched: {disk_problem(error)}"
    except UnicodeEncodeError:
        problem = "HF_TOKEN holds characters that no token has; set it to a token of the hub"
    except httpx2.InvalidURL:
        problem = f"{what} cannot be fetched: the address is not right"
    else:
        return
    raise BundleError(problem) from None


def _status(error: BaseException) -> int | None:
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__  # type: ignore[assignment]
    return None


def _status_problem(status: int | None, what: str, page: str) -> str | None:
    problems = {
        401: f"{what} needs a login: set HF_TOKEN to a token that is valid (401)",
        403: f"{what} is not allowed for this HF_TOKEN: accept the licence at {page}, or use a "
        "token that may read it (403)",
        404: None,
    }
    return problems.get(status or 0)
