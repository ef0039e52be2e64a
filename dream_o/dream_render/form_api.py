"""The documented form endpoint in front of a Cog server that runs DreamRenderPredictor.

    dream-o render form-api --target http://127.0.0.1:5000 --port 8000

Cog's server accepts only JSON, but the documented request is a form. This endpoint checks a form by
the predictor's schema, forwards it as a prediction, and answers with the image's bytes.
"""

import asyncio
import base64
import json
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from dream_o.dream_render.connections import BoundedConnection
from dream_o.dream_render.form_body import (
    BODY_SECONDS,
    CLIENT_GONE,
    MAX_BODY_BYTES,
    FormError,
    form_fields,
)
from dream_o.dream_render.keys import check_dev_key
from dream_o.errors import UserError
from dream_o.server.inputs import type_inputs
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import Parser, load_predictor
from dream_o.server.serve import check_address
from dream_o.service.logs import log_to_stderr
from dream_o.service.settings import Settings

logger = logging.getLogger("dream_o.dream_render.form_api")

PREDICTOR = "predict.py:DreamRenderPredictor"
ENDPOINT = "/api/generate_image"
RETRY_AFTER_SECONDS = 5
# Cog stays busy for a moment after it has answered: seconds to wait before each new attempt.
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.0)
# A prediction may take minutes, but a running server accepts the connection at once.
CONNECT_SECONDS = 5.0
LISTEN_SECONDS = 0.5
# The most connections at once; more get status 503. Images are generated one at a time.
MAX_CONNECTIONS, KEEP_ALIVE_SECONDS = 100, 5
# The prefix that Cog adds to error messages.
COG_PREFIX = re.compile(r"^(?:Prediction failed: )*(?:\w*Error: )?")
# Cog's status codes while it is busy (409) and while setup runs or after it failed (503).
NOT_NOW = (409, 503)
# States of Cog's health check that last until a restart, and what to tell the client.
NEVER = {
    "SETUP_FAILED": "the image server could not start; its log says why",
    "DEFUNCT": "the image server has stopped; its log says why",
    "UNHEALTHY": "the image server has lost its worker; restart it",
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image.",
        "headers": {"X-Seed": {"description": "The seed used.", "schema": {"type": "string"}}},
        "content": {
            f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
            for kind in ("png", "webp", "jpeg")
        },
    },
    401: {"description": "The key is missing or not recognised."},
    408: {"description": f"The body did not arrive within {BODY_SECONDS:g} seconds."},
    413: {"description": f"The body is larger than {MAX_BODY_BYTES} bytes."},
    415: {"description": "The body is not a form."},
    422: {"description": "A field is missing or not allowed; the error names it."},
    500: {"description": "The image could not be made; the error says why."},
    502: {
        "description": "The Cog server is unreachable, could not start or gave an invalid answer."
    },
    503: {"description": "The Cog server is busy or starting; Retry-After says when to try again."},
}


def create_app(
    target: str,
    document: Mapping[str, Any],
    dev_keys: Sequence[str] = (),
    transport: httpx.AsyncBaseTransport | None = None,
    dev_key_hashes: Sequence[str] = (),
) -> FastAPI:
    """The endpoint's ASGI application.

    Args:
        target: the Cog server's URL.
        document: DreamRenderPredictor's OpenAPI document.
        dev_keys: accepted keys, if this process knows them; wrong keys are then refused without
            asking the server.
        transport: the httpx transport to the server; None for HTTP.
        dev_key_hashes: hashes of further accepted keys.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(
            # trust_env=False: a proxy from the environment must not be used for a local server.
            base_url=target,
            timeout=timeout,
            transport=transport,
            trust_env=False,
        ) as client:
            app.state.cog = client
            yield

    app = FastAPI(title="DreamRender", version="3.0", lifespan=lifespan, redoc_url=None)

    @app.exception_handler(HTTPException)
    async def other_routes(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        # The traceback goes only to the log.
        return JSONResponse({"error": "the form endpoint failed; its log says why"}, 500)

    @app.post(
        ENDPOINT,
        summary="Generate an image",
        response_class=Response,
        responses=RESPONSES,
        openapi_extra={"requestBody": _request_body(document)},
    )
    async def generate_image(request: Request) -> Response:
        start = time.monotonic()
        inputs: dict[str, Any] = {}
        try:
            fields = await form_fields(request)
            # In a thread, because checking a key's hash takes about 50 ms.
            inputs = await asyncio.to_thread(
                check_fields, fields, document, dev_keys, dev_key_hashes
            )
            prediction = await _while_connected(request, predict(request.app.state.cog, inputs))
            response = image_response(prediction, document)
        except FormError as error:
            response = JSONResponse({"error": str(error)}, error.status, error.headers)
        _log(response, inputs, time.monotonic() - start)
        return response

    return app


def check_fields(
    fields: Sequence[tuple[str, str]],
    document: Mapping[str, Any],
    dev_keys: Sequence[str],
    dev_key_hashes: Sequence[str] = (),
) -> dict[str, Any]:
    """Checks the fields and returns the prediction's inputs with their types.

    Raises:
        FormError: 401 if the key is wrong, 422 if another field is.
    """
    try:
        if dev_keys or dev_key_hashes:
            check_dev_key(dict(fields).get("dev_key", ""), dev_keys, dev_key_hashes)
        return type_inputs(
            [(name, _canonical(name, text, document)) for name, text in fields], document
        )
    except UserError as error:
        raise _form_error(str(error), document) from error


def _canonical(name: str, text: str, document: Mapping[str, Any]) -> str:
    """The text of a field as the schema's reader accepts it: lower case for booleans."""
    described = document["components"]["schemas"]["Input"]["properties"].get(name, {})
    if described.get("type") == "boolean" and text.lower() in ("true", "false"):
        return text.lower()
    return text


async def predict(cog: httpx.AsyncClient, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Sends the inputs to the Cog server and returns the finished prediction.

    Raises:
        FormError: 502 if the server is unreachable, could not start or gave an invalid answer, 503
            if it is busy or still starting.
    """
    # Outside the try block, because an error here is not the server's. JSON escapes
    # all characters beyond ASCII.
    body = json.dumps({"input": dict(inputs)}).encode("ascii")
    headers = {"Content-Type": "application/json"}
    try:
        for pause in PAUSES:
            answer = await cog.post("/predictions", content=body, headers=headers)
            if answer.status_code not in NOT_NOW:
                break
            await asyncio.sleep(pause)
        else:
            raise await _not_now(cog)
        prediction = answer.json()
        if answer.status_code == 422:
            return {"status": "failed", "error": _validation_error(prediction)}
        if prediction["status"] not in ("succeeded", "failed", "canceled"):
            raise ValueError(prediction["status"])
    except httpx.HTTPError as error:
        raise FormError(502, "the image server is not reachable") from error
    except (ValueError, KeyError, TypeError) as error:
        raise FormError(502, "the image server gave an answer that is not a prediction") from error
    found: dict[str, Any] = prediction
    return found


async def _not_now(cog: httpx.AsyncClient) -> FormError:
    """The error for a server that is busy, still starting, or unusable until a restart."""
    state = (await cog.get("/health-check")).json()["status"]
    if state in NEVER:
        return FormError(502, NEVER[state])
    doing = "still starting" if state == "STARTING" else "busy with another request"
    return FormError(
        503, f"the server is {doing}; try again", {"Retry-After": str(RETRY_AFTER_SECONDS)}
    )


async def _while_connected(
    request: Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any]:
    """The result of `work`. If the client disconnects, cancels it and thereby Cog's prediction."""
    task = asyncio.create_task(work)
    while not (await asyncio.wait({task}, timeout=LISTEN_SECONDS))[0]:
        if await request.is_disconnected():
            task.cancel()
            raise FormError(CLIENT_GONE, "the client has disconnected")
    return task.result()


def _validation_error(answer: Mapping[str, Any]) -> str:
    """The first of Cog's schema errors as one sentence that begins with the field."""
    detail = answer["detail"]
    if isinstance(detail, str):
        return detail
    return f"{detail[0]['loc'][-1]}: {detail[0]['msg']}"


def image_response(prediction: Mapping[str, Any], document: Mapping[str, Any]) -> Response:
    """The response with the image of a prediction.

    Raises:
        FormError: the prediction failed; 401 or 422 if an input was the reason, otherwise 500.
    """
    if prediction["status"] != "succeeded":
        error = prediction.get("error") or f"the prediction was {prediction['status']}"
        raise _form_error(COG_PREFIX.sub("", error), document)
    try:
        head, _, content = prediction["output"].partition(";base64,")
        kind = head.removeprefix("data:")
        if not kind.startswith("image/"):
            raise ValueError(kind)
        return Response(
            base64.b64decode(content, validate=True),
            media_type=kind,
            headers={"X-Seed": str(prediction["metrics"]["seed"])},
        )
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise FormError(502, "the image server gave no image") from error


def _form_error(error: str, document: Mapping[str, Any]) -> FormError:
    name = error.partition(":")[0]
    if name == "dev_key":
        return FormError(401, error)
    known = name in document["components"]["schemas"]["Input"]["properties"]
    return FormError(422 if known or "no such input" in error else 500, error)


def _log(response: Response, inputs: Mapping[str, Any], seconds: float) -> None:
    """Logs one line per request, with checked values only and never a key or a prompt."""
    shown = [f"{name}={inputs[name]}" for name in ("width", "height", "steps") if name in inputs]
    logger.info("%s: %d, %.2f s %s", ENDPOINT, response.status_code, seconds, " ".join(shown))


def _request_body(document: Mapping[str, Any]) -> dict[str, Any]:
    """The form in OpenAPI: the predictor's inputs without references to other schemas."""
    schemas = document["components"]["schemas"]
    properties = {}
    for name, described in schemas["Input"]["properties"].items():
        merged = {key: value for key, value in described.items() if key != "allOf"}
        for part in described.get("allOf", []):
            merged = schemas[part["$ref"].rpartition("/")[2]] | merged
        properties[name] = merged
    schema = {
        "type": "object",
        "required": schemas["Input"]["required"],
        "properties": properties,
    }
    kinds = ("multipart/form-data", "application/x-www-form-urlencoded")
    return {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until interrupted; returns 1 after an error, with one line `error: ...`."""
    parser = Parser(prog="dream-o render form-api", description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True, help="URL of the Cog server")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")
    try:
        arguments = parser.parse_args(argv)
        if httpx.URL(arguments.target).scheme not in ("http", "https"):
            raise UserError(f"--target {arguments.target}: give an http or https URL")
        check_address(arguments.host, arguments.port)
        settings = Settings.from_environ()
        document = openapi_document(type(load_predictor(PREDICTOR)))
    except (UserError, httpx.InvalidURL) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    log_to_stderr()
    address = f"http://{arguments.host}:{arguments.port}"
    logger.info("%s%s in front of %s; press Ctrl-C to stop", address, ENDPOINT, arguments.target)
    # No access log, because it would contain query strings, which may contain a key.
    uvicorn.run(
        create_app(
            arguments.target, document, settings.dev_keys, dev_key_hashes=settings.dev_key_hashes
        ),
        host=arguments.host,
        port=arguments.port,
        http=BoundedConnection,
        log_level="warning",
        access_log=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        server_header=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
