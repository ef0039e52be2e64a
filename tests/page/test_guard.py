import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from dream_o.errors import UserError
from dream_o.page.guard import Guard, origin_of


def ask(method="POST", guard=None, **headers):
    """Sends a request with these headers to an application behind a guard; returns the status."""
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("in"), methods=["GET", "POST"])])
    client = TestClient(Guard(app, **guard or {}), "http://box:7860")
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.request(method, "/", headers=sent).status_code


PROXY = "dream.example"


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a program
        {"origin": "http://box:7860"},
        {"origin": f"https://{PROXY}", "host": PROXY},
        {"origin": f"https://{PROXY}", "host": f"{PROXY}:443"},
        {"origin": f"https://{PROXY}", "host": "127.0.0.1:7860", "x_forwarded_host": PROXY},
        # The proxy passes on no name, but the browser sends Sec-Fetch-Site.
        {"origin": f"https://{PROXY}", "host": "127.0.0.1:7860", "sec_fetch_site": "same-origin"},
    ],
)
def test_requests_of_the_page_itself_are_accepted(headers):
    assert ask(**headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "http://box:3000", "sec_fetch_site": "same-site"},
        {"origin": "http://box"},
        {"origin": "null"},
        {"origin": "file://"},
        {"origin": "http://[", "host": "["},
        {"origin": "https://evil.example", "host": PROXY, "x_forwarded_host": PROXY},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
def test_requests_of_another_site_are_refused(headers):
    assert ask(**headers) == 403


def test_another_site_may_link_to_the_page_but_not_load_from_it():
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert ask("GET", **link) == 200
    assert ask("GET", sec_fetch_site="none", sec_fetch_mode="navigate") == 200
    assert ask("GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == 403


def test_on_the_loopback_requests_to_names_of_other_sites_are_refused():
    """The DNS server of another site can return the address of this machine for its name."""
    rebound = {"origin": "http://evil.example:7860", "sec_fetch_site": "same-origin"}
    guard = {"host": "127.0.0.1"}
    assert ask(guard=guard, host="evil.example:7860", **rebound) == 403
    assert ask(guard=guard, host="evil.example:7860", x_forwarded_host="localhost") == 403
    for host in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860", "localhost"):
        assert ask(guard=guard, host=host, origin=f"http://{host}") == 200


def test_origins_name_a_proxy_by_its_address_in_the_browser():
    guard = {"host": "127.0.0.1", "origins": [origin_of("https://Dream.example/")]}
    origin = {"origin": f"https://{PROXY}"}
    assert ask(guard=guard, host=PROXY, **origin) == 200
    assert ask(guard=guard, host="127.0.0.1:7860", **origin) == 200
    assert ask(guard=guard, host="evil.example", origin="https://evil.example") == 403
    assert ask(guard={"origins": guard["origins"]}, host="evil.example") == 403


def test_with_a_proxy_the_page_also_answers_to_the_name_it_listens_on():
    guard = {"host": "Box", "origins": [f"https://{PROXY}"]}
    for host in ("box:7860", PROXY, "localhost:7860", "192.0.2.7:7860"):
        assert ask(guard=guard, host=host) == 200
    assert ask(guard=guard, host="evil.example") == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/file=https://x.example/a.png", 404),
        ("/file=HTTP://x.example/a.png", 404),
        ("/gradio_api/file/https://x.example/a.png", 404),
        ("/gradio_api/proxy=https://x.example/a.png", 404),
        ("/gradio_api/file=/tmp/file/proxy=/a.png", 200),
        ("/static/file/a.js", 200),
    ],
)
def test_paths_by_which_gradio_downloads_urls_are_refused(path, status):
    app = Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("in"))])
    assert TestClient(Guard(app)).get(path).status_code == status


def test_an_origin_is_converted_to_the_form_that_browsers_send():
    assert origin_of("https://dream.example:443") == "https://dream.example"
    assert origin_of("http://dream.example:8080/") == "http://dream.example:8080"
    assert origin_of("http://[::1]:8080") == "http://[::1]:8080"
    assert origin_of("https://Bücher.example") == "https://xn--bcher-kva.example"
    no_address = (
        "dream.example",
        "https://",
        "ftp://x",
        "https://x:port",
        "",
        "https://-ü.example",
    )
    too_much = ("https://x/page", "https://ann@x", "https://x?a=b", "https://x#top")
    for text in (*no_address, *too_much):
        with pytest.raises(UserError, match=r"^--origin .*: give the address in the browser"):
            origin_of(text)
