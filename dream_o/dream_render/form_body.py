"""Reads the fields of a form from a request body of limited size."""

import asyncio
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

MAX_BODY_BYTES = 1_000_000
# A body that is too large is read and discarded up to this size, because some clients read the
# answer only after they have sent everything.
MAX_DRAINED_BYTES = 16_000_000
# A body that has not arrived by then is refused, so that slow clients hold no connection for long.
BODY_SECONDS = 30.0
MAX_FIELDS = 64
FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")
CHARSETS = ("utf-8", "utf8")
CLIENT_GONE = 499  # only for the log; nginx's code for a client that disconnected
# Characters of a name that an error repeats.
MAX_SHOWN = 80


class FormError(Exception):
    """An error answer: an HTTP status, one sentence, and headers."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.headers = dict(headers or {})


async def form_fields(request: Request) -> list[tuple[str, str]]:
    """The names and texts of a multipart or urlencoded form, in order.

    Raises:
        FormError: 408 if the body does not arrive within BODY_SECONDS; 413 if it is larger than
            MAX_BODY_BYTES; 415 if it is not a form in UTF-8; 422 if the form cannot be read, has a
            file instead of text or has a field twice; CLIENT_GONE if the client disconnects before
            the body is read.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _bounded_body(request)
    except TimeoutError as error:
        raise FormError(
            408,
            f"the body did not arrive within {BODY_SECONDS:g} seconds",
            {"Connection": "close"},
        ) from error
    except ClientDisconnect as error:
        raise FormError(CLIENT_GONE, "the client has disconnected") from error
    # The same parser as the form's reader uses, so that both see the same charset.
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.decode("latin-1").strip().lower() not in FORM_TYPES:
        raise FormError(415, f"send a form: {' or '.join(FORM_TYPES)}")
    # Python would decode with any codec that the client names, even one that is not a charset.
    if options.get(b"charset", b"utf-8").decode("latin-1").lower() not in CHARSETS:
        raise FormError(415, "send the form in UTF-8, with no other charset in its content type")

    _check_text(body, kind.decode("latin-1").strip().lower(), options)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(
            max_files=MAX_FIELDS, max_fields=MAX_FIELDS, max_part_size=MAX_BODY_BYTES
        ) as form:
            fields = form.multi_items()
            for name, value in fields:
                if isinstance(value, UploadFile):
                    raise FormError(422, f"{name[:MAX_SHOWN]}: send text, not a file")
    except HTTPException as error:
        raise FormError(422, f"the form cannot be read: {error.detail}") from error
    except UnicodeError as error:
        raise FormError(422, "the form cannot be read: it is not in UTF-8") from error
    names = [name for name, _ in fields]
    for name in names:
        if names.count(name) > 1:
            raise FormError(422, f"{name[:MAX_SHOWN]}: is given twice; give it once")
    return [(name, str(value)) for name, value in fields]


def _check_text(body: bytes, kind: str, options: Mapping[bytes, bytes]) -> None:
    """Refuses what the reader would silently change: bytes other than UTF-8, an incomplete form."""
    text = unquote_to_bytes(body.replace(b"+", b" ")) if kind == FORM_TYPES[1] else body
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise FormError(415, "send the form in UTF-8") from error
    end = b"--" + options.get(b"boundary", b"") + b"--"
    if kind == FORM_TYPES[0] and end not in body[-len(end) - 4 :]:
        raise FormError(422, "the form cannot be read: it ends before its last boundary")


async def _bounded_body(request: Request) -> bytes:
    too_large = FormError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    declared = request.headers.get("content-length", "")
    if "expect" in request.headers and declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise too_large  # the client waits for an answer before it sends the body
    body = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= MAX_BODY_BYTES:
            body += chunk
        elif received > MAX_DRAINED_BYTES:
            break
        else:
            body.clear()
    if received > MAX_BODY_BYTES:
        raise too_large
    return bytes(body)
