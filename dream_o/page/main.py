"""`dream-o page`: DreamO in the browser."""

import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dream_o.errors import UserError
from dream_o.importing import without_collections
from dream_o.server.predictors import Parser
from dream_o.server.serve import check_address, is_loopback
from dream_o.service.logs import log_to_stderr
from dream_o.service.settings import Settings

if TYPE_CHECKING:
    import uvicorn

PORT = 7860  # Gradio's
INSTALL = "pip install 'dream-o[page]'"
# How long the browser waits for the server before it is opened anyway.
OPEN_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGINT (Ctrl-C) or SIGTERM and returns 0; prints an error and returns 1."""
    try:
        serve(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def serve(argv: Sequence[str]) -> None:
    """Loads the models and serves the page.

    Raises:
        UserError: an argument or setting is wrong, Gradio is not installed, or the address cannot
            be listened on.
    """
    arguments = _parser().parse_args(argv)
    if arguments.auth and arguments.mcp:
        raise UserError("--mcp: agents cannot log in; leave out --mcp or --auth")
    accounts = accounts_of(arguments.auth) if arguments.auth else None
    settings = Settings.from_environ()
    check_address(arguments.host, arguments.port)
    try:
        with without_collections():
            import uvicorn

            from dream_o.page.app import create_app
            from dream_o.page.desk import Desk
            from dream_o.page.guard import origin_of
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "mcp"):
            raise
        raise UserError(f"the page needs {error.name}; install it with {INSTALL}") from error
    origins = [origin_of(text) for text in arguments.origin]
    log_to_stderr()
    address = f"http://{own_host(arguments.host)}:{arguments.port}"
    # uvicorn raises the signal again after its shutdown. The default handler of SIGTERM would end
    # the process there, and the uploads would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = create_app(
        Desk.load(settings), accounts, arguments.mcp, f"{address}/", arguments.host, origins
    )
    print(f"Serving the page on {address}; press Ctrl-C to stop", file=sys.stderr)
    if accounts is None and not is_loopback(arguments.host):
        print(
            f"warning: everybody who can reach {arguments.host} can use the page; "
            "--auth USER:FILE asks for a password",
            file=sys.stderr,
        )
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=arguments.host,
            port=arguments.port,
            log_level="warning",
            access_log=False,  # whoever knows an image's address can open the image
            server_header=False,
            timeout_graceful_shutdown=3,
        )
    )
    if not arguments.no_browser:
        threading.Thread(target=_open_browser, args=(server, address), daemon=True).start()
    server.run()


def accounts_of(texts: Sequence[str]) -> dict[str, str]:
    """Passwords by user, of texts `USER:FILE`; a password is the first line of its file.

    Raises:
        UserError: a text has another form, or its file cannot be read or is empty.
    """
    accounts = {}
    for text in texts:
        user, colon, file = text.partition(":")
        if not (user and colon and file):
            raise UserError(f"--auth {text}: give USER:FILE, a file with the user's password")
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"--auth {text}: the file cannot be read") from error
        if not lines or not lines[0].strip():
            raise UserError(f"--auth {text}: the file has no password in its first line")
        accounts[user] = lines[0].strip()
    return accounts


def own_host(host: str) -> str:
    """The host by which this machine reaches a server that listens on `host`, as in a URL."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{own}]" if ":" in own else own


def _open_browser(server: "uvicorn.Server", address: str) -> None:
    end = time.monotonic() + OPEN_SECONDS
    while not server.started and time.monotonic() < end:
        time.sleep(0.05)
    webbrowser.open(address)


def _parser() -> Parser:
    parser = Parser(prog="dream-o page", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--auth",
        metavar="USER:FILE",
        action="append",
        default=[],
        help="let in only this user, whose password is the file's first line; repeatable",
    )
    parser.add_argument(
        "--mcp", action="store_true", help="offer the page's tools to agents, at /gradio_api/mcp/"
    )
    parser.add_argument(
        "--origin",
        metavar="URL",
        action="append",
        default=[],
        help="an address under which browsers open the page, such as a proxy's; repeatable",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser


if __name__ == "__main__":
    sys.exit(main())
