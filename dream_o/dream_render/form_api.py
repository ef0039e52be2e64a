"""The documented form endpoint in front of a Cog server that runs DreamRenderPredictor.

    dream-o render form-api --target http://127.0.0.1:5000 --port 8000

Cog's server accepts only JSON, but the documented request is a form. This endpoint checks a form by
the predictor's schema, forwards it as a prediction, and answers with the image's bytes.
"""

import asyncio
import base64
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

from dream_o.dream_render.cog_client import is_ready, predict
from dream_o.dream_render.connections import BoundedConnection
from dream_o.dream_render.form_body import CLIENT_GONE, FormError, form_fields
from dream_o.dream_render.form_document import RESPONSES, request_body
from dream_o.dream_render.form_entry import FormEntry
from dream_o.dream_render.keys import check_dev_key
from dream_o.errors import UserError
from dream_o.server.inputs import type_inputs
from dream_o.server.metrics import CONTENT_TYPE, Metrics
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import Parser, load_predictor
from dream_o.server.request_log import log_entry
from dream_o.server.serve import check_address
from dream_o.service.logs import log_to_stderr
from dream_o.service.settings import Settings

logger = logging.getLogger("dream_o.dream_render.form_api")

PREDICTOR = "predict.py:DreamRenderPredictor"
ENDPOINT = "/api/generate_image"
# A prediction may take minutes, but a running server accepts the connection at once.
CONNECT_SECONDS = 5.0
LISTEN_SECONDS = 0.5
# The most connections at once; more get status 503. Images are generated one at a time.
MAX_CONNECTIONS, KEEP_ALIVE_SECONDS = 100, 5
# The prefix that Cog adds to error messages.
COG_PREFIX = re.compile(r"^(?:Prediction failed: )*(?:\w*Error: )?")


def create_app(
    target: str,
    document: Mapping[str, Any],
    dev_keys: Sequence[str] = (),
    transport: httpx.AsyncBaseTransport | None = None,
    dev_key_hashes: Sequence[str] = (),
    log_prompts: bool = False,
) -> FastAPI:
    """The endpoint's ASGI application.

    Args:
        target: the Cog server's URL.
        document: DreamRenderPredictor's OpenAPI document.
        dev_keys: accepted keys, if this process knows them; wrong keys are then refused without
            asking the server.
        transport: the httpx transport to the server; None for HTTP.
        dev_key_hashes: hashes of further accepted keys.
        log_prompts: whether the log has the prompts of requests.
    """
    metrics = Metrics("form")

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
        openapi_extra={"requestBody": request_body(document)},
    )
    async def generate_image(request: Request) -> Response:
        response: Response | None = None
        entry = FormEntry(request.headers.get("content-length", ""))
        metrics.begin()
        try:
            fields = await form_fields(request)
            # In a thread, because checking a key's hash takes about 50 ms.
            entry.inputs = await asyncio.to_thread(
                check_fields, fields, document, dev_keys, dev_key_hashes
            )
            work = predict(request.app.state.cog, entry.inputs, entry.id)
            entry.prediction = await _while_connected(request, work)
            response = image_response(entry.prediction, document)
            entry.image_bytes = len(response.body)
        except FormError as error:
            response = JSONResponse({"error": str(error)}, error.status, error.headers)
        finally:
            # Without a response, the handler of unforeseen errors answers.
            status = response.status_code if response is not None else 500
            seconds = time.monotonic() - entry.begun
            metrics.record(str(status), seconds, entry.image_bytes, entry.prediction.get("metrics"))
            log_entry(entry.fields(status, seconds, log_prompts))
        response.headers["X-Request-Id"] = entry.id
        return response

    @app.get("/metrics", include_in_schema=False)
    async def prometheus(request: Request) -> Response:
        metrics.set_ready(await is_ready(request.app.state.cog))
        return Response(metrics.text(), media_type=CONTENT_TYPE)

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
            arguments.target,
            document,
            settings.dev_keys,
            dev_key_hashes=settings.dev_key_hashes,
            log_prompts=settings.log_prompts,
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
