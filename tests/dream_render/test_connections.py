"""Slow and many connections to the form endpoint."""

import resource
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from dream_o.dream_render import connections, form_body
from dream_o.dream_render.form_api import ENDPOINT, create_app
from tests.dream_render.form_server import DOCUMENT, FORM, Cog, multipart, refused, serving


@pytest.fixture
def address(cog: Cog, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.URL]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.05)
    app = create_app("http://cog", DOCUMENT, transport=httpx.MockTransport(cog))
    with serving(app, http=connections.BoundedConnection) as url:
        yield httpx.URL(url)


def ends(client: socket.socket) -> bool:
    """Whether the endpoint closes the connection."""
    client.settimeout(10)
    try:
        while client.recv(1000):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n"])
def test_a_client_that_sends_no_whole_head_is_disconnected(address: httpx.URL, sent: bytes) -> None:
    with socket.create_connection((address.host, address.port)) as client:
        client.sendall(sent)
        assert ends(client)


def test_a_request_that_takes_long_is_not_disconnected(address: httpx.URL, cog: Cog) -> None:
    def slow() -> httpx.Response:
        time.sleep(1)
        return cog.image()

    cog.answer = slow
    response = httpx.post(f"{address}{ENDPOINT}", **multipart(FORM), trust_env=False)
    assert response.status_code == 200


def test_a_body_that_does_not_arrive_is_408(
    address: httpx.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form_body, "BODY_SECONDS", 0.2)

    with socket.create_connection((address.host, address.port)) as client:
        client.sendall(
            f"POST {ENDPOINT} HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\nprompt=".encode()
        )
        client.settimeout(10)
        answer = b""
        while piece := client.recv(10_000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within" in answer


def test_more_connections_than_allowed_are_closed_at_once_and_then_served_again(
    address: httpx.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60.0)
    monkeypatch.setattr(connections, "MAX_OPEN", 5)
    clients = [socket.create_connection((address.host, address.port)) for _ in range(8)]
    try:
        assert sum(ends_now(client) for client in clients) == 3
    finally:
        for client in clients:
            client.close()
    assert refused(httpx.get(f"{address}{ENDPOINT}", trust_env=False), 405)


def ends_now(client: socket.socket) -> bool:
    client.settimeout(0.5)
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_a_process_with_few_files_allows_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))
    assert connections.most_open() == 48
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    assert connections.most_open() == connections.MAX_OPEN
