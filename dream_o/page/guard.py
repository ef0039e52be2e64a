"""What every request to the page must meet before Gradio sees it, and headers of every answer."""

from collections.abc import Collection, Mapping
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

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
# Paths by which Gradio would fetch an address for a visitor: the URL that follows `file=` or
# `file/`, and anything after `proxy=`.
FETCHING = ("/file=http", "/file/", "/proxy=")
DEFAULT_PORTS = {"http": 80, "https": 443}

FOREIGN = (
    "this page takes no requests from another site; if a proxy is before it, start the page with "
    "--origin and the address in the browser"
)


class Guard:
    """ASGI middleware: refuses what another site sends, and adds HEADERS.

    A browser says in `Origin` and `Sec-Fetch-Site` which site a request comes from; a page's script
    cannot change them. Programs send neither and are let in.

    Args:
        app: the application.
        loopback: whether the page listens on the loopback alone.
        origins: addresses, as a browser shows them, of the proxies before the page.

    With either, the names of the page are known, and requests to another name are refused: a site
    can let its own name lead to this machine, and its pages then count as pages of this site.
    """

    def __init__(self, app: ASGIApp, loopback: bool = False, origins: Collection[str] = ()) -> None:
        self.app = app
        self.loopback = loopback
        self.origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
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
        elif any(part in scope["path"].lower() for part in FETCHING):
            await refuse(404)
        else:
            await self.app(scope, receive, with_headers)

    def is_foreign(self, method: str, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from another site, or to a name that is not this page's."""
        host = headers.get("host", "")
        if (self.loopback or self.origins) and not self._is_own(host):
            return True
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        if site == "same-origin" or origin in self.origins:
            return False
        if origin is not None:
            # A proxy that sends another Host tells the browser's in X-Forwarded-Host.
            forwarded = headers.get("x-forwarded-host", host).split(",")[0].strip()
            return not _same_host(origin, {host, forwarded})
        # A link on another site may open the page, and Hugging Face shows it in a frame.
        opened = method == "GET" and headers.get("sec-fetch-mode") == "navigate"
        return site not in (None, "none") and not opened

    def _is_own(self, host: str) -> bool:
        """Whether a request was sent to an address, to the loopback or to the proxy's name."""
        name = _parts(f"//{host}").hostname or ""
        try:
            return bool(ip_address(name))
        except ValueError:
            return is_loopback(name) or name in {_parts(each).hostname for each in self.origins}


def _same_host(origin: str, hosts: Collection[str]) -> bool:
    """Whether an origin's host and port are among these values of the header `Host`."""
    sent = _parts(origin)
    if sent.scheme not in DEFAULT_PORTS:
        return False  # `null`, and pages that are no web pages
    # A Host without a port is that of the scheme, which a proxy may have changed.
    return sent.netloc in hosts or f"{sent.netloc}:{DEFAULT_PORTS[sent.scheme]}" in hosts


def origin_of(text: str) -> str:
    """An origin as browsers send it, of the text `https://name` or `https://name:port`.

    Raises:
        UserError: the text has another form.
    """
    parts = _parts(text.strip().lower().rstrip("/"))
    port = parts.port
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path or parts.query:
        raise UserError(f"--origin {text}: give the address in the browser, https://dream.example")
    own = port is None or port == DEFAULT_PORTS[parts.scheme]
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}" if own else f"{parts.scheme}://{name}:{port}"


def _parts(url: str) -> SplitResult:
    """The parts of a URL; all are empty if it is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is none
    except ValueError:
        return urlsplit("")
    return parts
