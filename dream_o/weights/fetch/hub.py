"""Asks the Hugging Face hub or a web server about files; turns errors into one sentence.

huggingface_hub reads the variables `HF_TOKEN` and `HF_ENDPOINT`.
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
"""The folder in the weights folder that keeps files until they are complete and verified."""

_LFS_ETAG = re.compile(r"[0-9a-f]{64}")
# For a small file the hub returns its git blob SHA-1.
_GIT_ETAG = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Found:
    """A file as the hub describes it.

    Attributes:
        repository: `owner/name` on the hub, or the URL of a folder on another server.
        path: the path in the repository.
        commit: the commit that the revision points to; empty for another server.
        bytes: the size.
        sha256: the digest; None if the server does not state it, as the hub for small files.
        etag: a string that identifies the content.
        url: where to download it; valid for minutes only if the hub redirects to its storage.
    """

    repository: str
    path: str
    commit: str
    bytes: int
    sha256: str | None
    etag: str
    url: str


Question = Callable[[], Found]
"""Asks the server about one file; every call sends a new request."""


def endpoint() -> str:
    """The hub's address, or HF_ENDPOINT if it is set; BundleError if that is not an address."""
    from huggingface_hub import constants

    address: str = constants.ENDPOINT
    if not is_plain_url(address):
        raise BundleError(
            "HF_ENDPOINT is not an address such as https://huggingface.co, without user name, "
            "password or query"
        )
    return address


def is_plain_url(url: str) -> bool:
    """Whether a text is an ASCII http(s) URL with a host, but no credentials, query or fragment.

    Messages show the URL and folders are named after it, so it must not contain secrets.
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
    """Asks the hub about a file without downloading it."""
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
    """Asks a web server other than the hub about a file below a URL."""
    from huggingface_hub import get_hf_file_metadata

    url = f"{folder.rstrip('/')}/{path}"
    with one_sentence(folder, path, ""):
        metadata = get_hf_file_metadata(url, token=False)
    if metadata.size is None:
        raise BundleError(f"{folder} does not state the size of {path}")
    etag = hashlib.sha256(f"{url} {metadata.size} {metadata.etag}".encode()).hexdigest()
    return Found(folder, path, "", metadata.size, None, etag, metadata.location or url)


def is_git_sha1(etag: str) -> bool:
    """Whether an ETag is a git blob SHA-1."""
    return _GIT_ETAG.fullmatch(etag) is not None


def headers_for(url: str) -> dict[str, str]:
    """The headers of a request for a file's bytes; HF_TOKEN is sent only to the hub."""
    from huggingface_hub.utils import build_hf_headers

    # The storage that serves large files does not get the token.
    to_hub = urlsplit(url).netloc == urlsplit(endpoint()).netloc
    return build_hf_headers(token=None if to_hub else False)


@contextmanager
def one_sentence(repository: str, path: str, revision: str) -> Iterator[None]:
    """Turns the errors of the hub's client into a BundleError that says what to do."""
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
            problem = f"{what} has another size than the server stated; run it again"
        else:
            problem = f"{what} cannot be fetched: {disk_problem(error)}"
    except UnicodeEncodeError:
        problem = "HF_TOKEN contains characters that no token has; set it to a token of the hub"
    except httpx2.InvalidURL:
        problem = f"{what} cannot be fetched: the address is not valid"
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
        401: f"{what} needs a login: set HF_TOKEN to a valid token (401)",
        403: f"HF_TOKEN does not give access to {what}: accept the licence at {page}, or use "
        "a token that can read it (403)",
        404: None,
    }
    return problems.get(status or 0)
