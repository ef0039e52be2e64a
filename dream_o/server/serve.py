"""`dream-o serve`: the Cog HTTP server on this machine."""

import errno
import ipaddress
import json
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dream_o.atomic import atomic_write
from dream_o.errors import UserError
from dream_o.paths import HOME, IMPORT_ROOT
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, Parser, absolute, load_predictor
from dream_o.server.supervisor import keep_running
from dream_o.server.watch import leave_ctrl_c_to_the_server
from dream_o.service.settings import Settings

NO_KEY = (
    "warning: the server asks for no key: whoever reaches this address can send predictions and "
    "POST /shutdown; put a proxy before it (docs/http.md)"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the server; on an error prints `error: ...` and returns 1."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return serve(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    return 1


def serve(argv: Sequence[str]) -> int:
    """Replaces this process with the server that `cog build` puts in the container.

    With `--restart` this process stays, and starts the server again whenever it ends with an error;
    the function returns when the server was told to end.

    Raises:
        UserError: an argument or setting is wrong, or the address cannot be listened on.
    """
    arguments = _parser().parse_args(argv)
    reference = absolute(arguments.predictor)
    predictor = load_predictor(arguments.predictor)
    Settings.from_environ()  # report a bad setting before the server starts
    check_address(arguments.host, arguments.port)

    # The server reads its document after setup, which may take minutes. Each predictor has its own
    # folder, so that another server cannot replace the document meanwhile.
    folder = HOME / ".cog" / "serve" / re.sub(r"[^\w.-]+", "-", arguments.predictor)
    write_document(openapi_document(type(predictor)), folder)
    environment = os.environ | {
        "COG_PREDICT_TYPE_STUB": reference,
        "PORT": str(arguments.port),
        # The server starts its worker as `python`.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([str(IMPORT_ROOT), os.environ.get("PYTHONPATH", "")]),
        # Cog's older names are used on purpose.
        "PYTHONWARNINGS": "ignore:BasePredictor is deprecated:DeprecationWarning,"
        f"ignore:{type(predictor).__name__}.predict() is deprecated:DeprecationWarning",
    }
    for variable in ("DREAM_O_WEIGHTS", "COG_WEIGHTS"):
        # The server has another working folder.
        if environment.get(variable) and Path(environment[variable]).exists():
            environment[variable] = str(Path(environment[variable]).absolute())
    if sys.stderr.isatty():
        environment.setdefault("LOG_FORMAT", "console")
    command = [sys.executable, "-m", "dream_o.server.watch", "--host", arguments.host]
    if arguments.restart:
        command.append("--supervised")
    if arguments.upload_url:
        command += ["--upload-url", arguments.upload_url]

    address = f"http://{arguments.host}:{arguments.port}"
    print(f"Serving {arguments.predictor} on {address}; press Ctrl-C to stop", file=sys.stderr)
    if not is_loopback(arguments.host):
        print(NO_KEY, file=sys.stderr)
    sys.stderr.flush()
    if arguments.restart:
        return keep_running(command, environment, folder)
    os.chdir(folder)
    leave_ctrl_c_to_the_server()  # it stays ignored in the process that follows
    return os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is wanted


def check_address(host: str, port: int) -> None:
    """Raises UserError unless the port is free on this host."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port {port} is out of range; use 1 to 65535")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise UserError(
            f"--host {host}: the address does not exist; use one of this machine's"
        ) from error
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port {port} is in use; choose another with --port") from error
            raise UserError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def is_loopback(host: str) -> bool:
    """Whether `host` is `localhost` or a loopback address.

    Names are not looked up, because a name may point to another address later.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def write_document(document: dict[str, Any], folder: Path) -> None:
    """Writes the document atomically to where a server that runs in `folder` reads it."""
    target = folder / ".cog" / "openapi_schema.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target) as file:
            file.write(json.dumps(document).encode())
    except OSError as error:
        shown = target.relative_to(HOME)
        raise UserError(f"{shown} cannot be written: {error.strerror}") from error


def _parser() -> Parser:
    parser = Parser(
        prog="dream-o serve", description="The Cog HTTP server on this machine, without Docker."
    )
    parser.add_argument(
        "-p",
        dest="predictor",
        metavar="FILE:CLASS",
        default=DEFAULT,
        help="the predictor (%(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (%(default)s); the server asks for no key",
    )
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start the server again, after a growing pause, when it fails or loses its worker",
    )
    parser.add_argument(
        "--upload-url",
        metavar="URL",
        help="upload outputs here (PUT) instead of returning data URLs",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
