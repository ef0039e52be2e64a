"""Checks every request before Gradio sees it, and adds headers to every answer."""

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

import httpx
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dream_o.errors import UserError
from dream_o.server.serve import is_loopback

# Gradio's templates are compiled in the browser, so scripts need 'unsafe-eval'. Nothing is loaded
# from another host; a Hugging Face Space shows the page in a frame.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "frame-ancestors 'self' https://huggingface.co",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
# Paths by which Gradio would download a URL for a visitor: after `file=` or `file/`, and after
# `proxy=`.
FETCHING = re.compile(r"(/gradio_api)?/(file=https?:|file/|proxy=)", re.IGNORECASE)
DEFAULT_PORTS = {"http": 80, "https": 443}

FOREIGN = (
    "this page refuses requests from other sites; if you use a proxy, start the page with "
    "--origin and the address in your browser"
)


class Guard:
    """ASGI middleware that refuses requests from other sites and adds HEADERS to answers.

    Browsers say in `Origin` and `Sec-Fetch-Site` which site a request comes from, and scripts
    cannot change these headers. Programs send neither, and their requests are accepted.

    Args:
        app: the application.
        host: the name or address that the page listens on; empty if it is not known.
        origins: addresses under which browsers open the page, such as a proxy's.

    If the page listens on the loopback, or `origins` are given, the names of the page are known:
    `localhost`, `host`, those in `origins`, and every IP address. Requests to other names are then
    refused. Otherwise another site could make its own name point to this machine, and browsers
    would treat the page as a part of that site.
    """

    def __init__(self, app: ASGIApp, host: str = "", origins: Collection[str] = ()) -> None:
        self.app = app
        self.origins = frozenset(origins)
        names = {"localhost", host.lower(), *(_parts(each).hostname for each in self.origins)}
        self.names = names - {"", None}
        self.knows_names = is_loopback(host) or bool(self.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        async def refuse(status: int, words: str = "") -> None:
            kind = [(b"content-type", b"text/plain; charset=utf-8")]
            await with_headers({"type": "http.response.start", "status": status, "headers": kind})
            await send({"type": "http.response.body", "body": words.encode()})

        if self.is_foreign(scope["method"], Headers(scope=scope)):
            await refuse(403, FOREIGN)
        elif FETCHING.match(scope["path"]):
            await refuse(404)
        else:
            await self.app(scope, receive, with_headers)

    def is_foreign(self, method: str, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from another site or was sent to a name of another site."""
        host = headers.get("host", "")
        if self.knows_names and not self._is_own(host):
            return True
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        if site == "same-origin" or origin in self.origins:
            return False
        if origin is not None:
            # A proxy that changes Host gives the browser's in X-Forwarded-Host.
            forwarded = headers.get("x-forwarded-host", host).split(",")[0].strip()
            return not _same_host(origin, {host, forwarded})
        # Links on other sites may open the page, and Hugging Face shows it in a frame.
        opened = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        return site not in (None, "none") and not opened

    def _is_own(self, host: str) -> bool:
        """Whether a request was sent to an IP address or to a name of the page."""
        name = _parts(f"//{host}").hostname or ""
        try:
            return bool(ip_address(name))
        except ValueError:
            return name in self.names


def _same_host(origin: str, hosts: Collection[str]) -> bool:
    """Whether an origin's host and port are among these values of the header `Host`."""
    sent = _parts(origin)
    if sent.scheme not in DEFAULT_PORTS:
        return False  # such as `null` or a browser extension
    # A Host without a port means the default port of the scheme, which a proxy may have changed.
    return sent.netloc in hosts or f"{sent.netloc}:{DEFAULT_PORTS[sent.scheme]}" in hosts


def origin_of(text: str) -> str:
    """Converts `https://name` or `https://name:port` to the origin that browsers send.

    Names with letters outside ASCII are encoded by IDNA.

    Raises:
        UserError: the text has another form.
    """
    parts = _parts(text.strip().lower().rstrip("/"))
    port = parts.port
    is_more = "@" in parts.netloc or parts.path or parts.query or parts.fragment
    try:
        name = httpx.URL(scheme="https", host=parts.hostname or "").raw_host.decode()
    except httpx.InvalidURL:
        name = ""
    if parts.scheme not in DEFAULT_PORTS or not name or is_more:
        raise UserError(
            f"--origin {text}: give the address in the browser, as https://dream.example, without "
            "a user, path, query or fragment"
        )
    is_default = port is None or port == DEFAULT_PORTS[parts.scheme]
    name = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{name}" if is_default else f"{parts.scheme}://{name}:{port}"


def _parts(url: str) -> SplitResult:
    """The parts of a URL; all are empty if the text is not a URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        return urlsplit("")
    return parts
