"""DreamO behind Ray Serve: one replica per GPU, with Ray's load balancing and autoscaling.

Install Ray Serve with `pip install "ray[serve]==2.60.*"`, run `.venv/bin/serve run
examples.ray_serve:app gpus=4` (without `gpus=4` on the CPU), then post the inputs of
`dream-o predict` as JSON to http://127.0.0.1:8000/; references are data URLs or http(s) URLs. The
answer is the image, or the mistakes with status 422.
"""

import asyncio
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dream_o.batch.references import as_files, reference_names
from dream_o.batch.worker import LoadedDreamO
from dream_o.errors import InputError, UserError
from dream_o.images.writing import write_image
from dream_o.server.inputs import problems
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, load_predictor
from dream_o.service.checks import request_of
from dream_o.service.settings import Settings

# A caller must not name files on this machine.
ALLOWED = ("data:", "http://", "https://")


class Images:
    """One loaded model that answers one request at a time."""

    def __init__(self) -> None:
        self.document = openapi_document(type(load_predictor(DEFAULT)))
        self.dream_o = LoadedDreamO(Settings.from_environ(), None)

    async def __call__(self, request: Request) -> Response:
        """Answers a request with its image, or with the mistakes."""
        try:
            given = await request.json()
        except ValueError:
            given = None
        wrong = self.problems(given)
        if wrong:
            return JSONResponse({"errors": wrong}, 422)
        try:
            content, suffix = await asyncio.to_thread(self.make, given)
        except UserError as error:
            status = 422 if isinstance(error, InputError) else 500
            return JSONResponse({"errors": [str(error)]}, status)
        return Response(content, media_type=f"image/{suffix.replace('jpg', 'jpeg')}")

    def problems(self, given: Any) -> list[str]:
        """What is wrong with the inputs, one sentence for each mistake."""
        if not isinstance(given, dict):
            return ["send the inputs as a JSON object"]
        wrong = [str(each) for each in problems(given, self.document)]
        for name in reference_names(self.document):
            reference = given.get(name)
            if isinstance(reference, str) and not reference.startswith(ALLOWED):
                wrong.append(f"{name}: send a data URL or an http(s) URL")
        return wrong

    def make(self, given: dict[str, Any]) -> tuple[bytes, str]:
        """The image's file and its format; raises UserError if it cannot be made."""
        properties = self.document["components"]["schemas"]["Input"]["properties"]
        inputs = {name: each.get("default") for name, each in properties.items()} | given
        with as_files(inputs, self.document) as opened:
            result = self.dream_o.generate(request_of(opened))
        output = {name: inputs[name] for name in ("output_format", "output_quality")}
        suffix, quality = output.values()
        path = Path(write_image(result.image, suffix, quality, result.metadata | output))
        try:
            return path.read_bytes(), suffix
        finally:
            path.unlink()

    def check_health(self) -> None:
        """Ray Serve replaces a replica whose check raises."""
        if not self.dream_o.is_healthy():
            raise RuntimeError("the device does not compute any more")


def app(arguments: dict[str, str]) -> serve.Application:
    """One to `gpus` replicas with a GPU each; without the argument, one on the CPU."""
    gpus = int(arguments.get("gpus", 0))
    deployment = serve.deployment(
        Images,
        ray_actor_options={"num_gpus": 1} if gpus else {"num_cpus": 1},
        max_ongoing_requests=1,
        autoscaling_config={"min_replicas": 1, "max_replicas": max(1, gpus)},
    )
    return deployment.bind()
