"""The form endpoint's answers: what becomes of what the Cog server says, or does not say."""

import socket
from typing import Any

import httpx
import pytest

from dream_o.dream_render.form_api import ENDPOINT, create_app
from tests.dream_render.form_server import DOCUMENT, FORM, PNG, Cog, multipart, refused, serving


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("dev_key: not recognised", 401),
        ("dev_key: no key is accepted, because DREAM_RENDER_DEV_KEYS is not set", 401),
        ("width: 513 is not a multiple of 8; the nearest allowed values are 512 and 520", 422),
        ("model: 'x' is not known; the nearest are miniature", 422),
        ("out of GPU memory; use a smaller width", 500),
    ],
)
def test_the_servers_errors_keep_their_words(
    client: httpx.Client, cog: Cog, error: str, status: int
) -> None:
    for prefix in ("", "Prediction failed: Prediction failed: InputError: "):
        cog.fails(prefix + error)
        assert refused(client.post(ENDPOINT, **multipart(FORM)), status) == error


@pytest.mark.parametrize("status", [409, 503])
def test_a_busy_server_is_503_with_the_time_to_come_back(
    client: httpx.Client, cog: Cog, status: int
) -> None:
    cog.says(status, json={"error": "busy"})
    response = client.post(ENDPOINT, **multipart(FORM))
    assert "busy" in refused(response, 503)
    assert int(response.headers["retry-after"]) > 0


def test_a_server_that_is_starting_is_503_in_words_of_its_own(
    client: httpx.Client, cog: Cog
) -> None:
    cog.says(503, json={"error": "not ready"})
    cog.health = "STARTING"
    response = client.post(ENDPOINT, **multipart(FORM))
    error = refused(response, 503)
    assert "starting" in error
    assert "busy" not in error
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("health", "words"),
    [
        ("SETUP_FAILED", "could not start"),
        ("DEFUNCT", "has stopped"),
        ("UNHEALTHY", "lost its worker"),
        ([], "not a prediction"),
    ],
)
def test_a_server_that_will_never_be_ready_is_502(
    client: httpx.Client, cog: Cog, health: Any, words: str
) -> None:
    cog.says(503, json={"error": "not ready"})
    cog.health = health
    response = client.post(ENDPOINT, **multipart(FORM))
    assert words in refused(response, 502)
    assert "retry-after" not in response.headers


def test_a_server_without_its_worker_is_502_though_it_says_that_it_is_busy(
    client: httpx.Client, cog: Cog
) -> None:
    cog.says(409, json={"error": "busy"})
    cog.health = "UNHEALTHY"
    response = client.post(ENDPOINT, **multipart(FORM))
    assert "restart it" in refused(response, 502)
    assert "retry-after" not in response.headers


def test_a_moment_of_being_busy_is_waited_for(client: httpx.Client, cog: Cog) -> None:
    answers = iter([httpx.Response(409), httpx.Response(409), cog.image()])
    cog.answer = lambda: next(answers)
    assert client.post(ENDPOINT, **multipart(FORM)).content == PNG
    assert len(cog.inputs) == 3


@pytest.mark.parametrize(
    "content",
    [
        {"text": "<html>"},
        {"json": []},
        {"json": {"status": "odd"}},
        {"json": {"status": "succeeded"}},
        {"json": {"status": "succeeded", "output": "data:image/png;base64,QQ==", "metrics": []}},
        {"json": {"status": "succeeded", "output": ["data:image/png;base64,QQ=="]}},
        {"headers": {"content-encoding": "gzip"}, "content": b"no gzip"},
        {"json": {"status": "succeeded", "output": "data:text/html;base64,QQ==", "metrics": {}}},
        {"json": {"status": "succeeded", "output": "data:image/png;base64,QQ==", "metrics": {}}},
    ],
)
def test_an_answer_without_sense_is_502(
    client: httpx.Client, cog: Cog, content: dict[str, Any]
) -> None:
    cog.says(200, **content)
    assert refused(client.post(ENDPOINT, **multipart(FORM)), 502)


def test_a_server_that_is_not_there_is_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with serving(create_app(f"http://127.0.0.1:{port}", DOCUMENT)) as url:
        assert "not reachable" in refused(httpx.post(url + ENDPOINT, **multipart(FORM)), 502)
