import asyncio
import base64
import functools
import io
import json
import re
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from dream_o.errors import InputError
from dream_o.images.writing import read_metadata
from dream_o.library_internals import queued_inputs
from dream_o.page.desk import Desk
from dream_o.page.outputs import place_of
from dream_o.service.request import Reference
from dream_o.service.result import Result
from tests.page.served import KEY, Served

BROWSER, OTHER = "0" * 32, "f" * 32
SMALL = {"width": 768, "height": 768, "num_steps": 8, "seed": "5"}


@pytest.fixture(scope="module")
def page(loaded):
    """One page for all of these tests."""
    with Served(loaded) as served:
        yield served


@pytest.fixture
def desk(page):
    return page.desk


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False)


@pytest.fixture
def drawn(desk, monkeypatch):
    """Requests are answered at once; the list tells how many are answered at a time."""
    active, most = [], []

    def generate(request, on_step=None):
        active.append(request)
        most.append(len(active))
        time.sleep(0.01)
        active.remove(request)
        image = Image.new("RGB", (request.width, request.height), "teal")
        return Result(image, {"prompt": request.prompt, "seed": request.seed}, {"steps": 8})

    monkeypatch.setattr(desk.dream_o, "generate", generate)
    return most


def until(happened):
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask(url, inputs):
    """Asks `/generate` over plain HTTP; returns the last event and its data."""
    names = [each["parameter_name"] for each in parameters(url)]
    defaults = {each["parameter_name"]: each["parameter_default"] for each in parameters(url)}
    data = [{**defaults, **SMALL, **inputs}[name] for name in names]
    started = httpx.post(f"{url}/gradio_api/call/generate", json={"data": data}).json()
    answer = httpx.get(f"{url}/gradio_api/call/generate/{started['event_id']}", timeout=120)
    event, data = answer.text.strip().split("\n\n")[-1].split("\n")[:2]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@functools.cache
def parameters(url):
    info = httpx.get(f"{url}/gradio_api/info").json()
    return info["named_endpoints"]["/generate"]["parameters"]


def test_every_answer_forbids_other_hosts(page):
    for path in ("/", "/config", "/nowhere", "/gradio_api/info"):
        headers = httpx.get(page.url + path).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_the_page_itself_names_no_other_host_to_load_from(page):
    text = httpx.get(page.url).text
    for sign in ('src="http', 'href="http', "url(http", "fonts.g", "googletag"):
        assert sign not in text


def test_the_server_fetches_nothing_for_a_visitor(page):
    for path in (
        "/gradio_api/file=http://127.0.0.1:1/x",
        "/gradio_api/file=https://example.com/x.png",
        "/gradio_api/file/https://example.com/x.png",
        "/gradio_api/proxy=https://example.com/x.png",
    ):
        assert httpx.get(page.url + path).status_code == 404


def test_a_page_of_another_site_can_neither_ask_nor_read(page, drawn):
    evil = {"origin": "https://evil.example"}
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    for path in ("queue/join", "call/generate", "cancel", "upload"):
        answer = httpx.post(f"{page.url}/gradio_api/{path}", json=body, headers=evil)
        assert answer.status_code == 403, path
    asked = evil | {"access-control-request-method": "POST"}
    for answer in (
        httpx.options(f"{page.url}/gradio_api/queue/join", headers=asked),
        httpx.get(f"{page.url}/config", headers=evil),
        httpx.get(f"{page.url}/config", headers={"host": "evil.example"}),
    ):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert drawn == []


def test_a_result_is_given_to_its_browser_alone(page, hill):
    result = Result(Image.new("RGB", (32, 32)), {"prompt": "a hill", "seed": 5}, {})
    entry = page.desk.outputs.add(BROWSER, result, "png", 90, (Reference(hill, "ip"),))
    answer = httpx.get(f"{page.url}/outputs/{place_of(BROWSER)}/{entry.name}")
    assert answer.content == entry.path.read_bytes()
    assert answer.headers["cache-control"].startswith("private")
    assert httpx.get(f"{page.url}/outputs/{place_of(OTHER)}/{entry.name}").status_code == 404
    assert httpx.get(f"{page.url}/outputs/{place_of(BROWSER)}/x.png").status_code == 404
    kept = entry.references[1].image
    for path in (entry.path, kept, hill, "/etc/hostname"):
        refused = httpx.get(f"{page.url}/gradio_api/file={path}")
        assert refused.status_code == 403, path


def test_a_file_of_the_server_is_no_upload(page, hill, drawn):
    """A client may name any path where an upload is expected."""
    named = {"path": str(hill), "meta": {"_type": "gradio.FileData"}}
    event, data = ask(page.url, {"prompt": "a hill", "ref_image1": named})
    assert (event, drawn) == ("error", [])
    assert str(hill) not in str(data)
    assert not any(path.name == "hill.png" for path in Path(page.uploads).rglob("*"))


def test_an_address_is_no_upload(page, drawn):
    """Gradio would download what stands there into memory, without a limit."""
    named = {"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}
    event, data = ask(page.url, {"prompt": "a hill", "ref_image1": named})
    assert (event, drawn) == ("error", [])
    assert "send the image, not its address" in str(data)


def test_a_browsers_key_opens_no_address(page):
    result = Result(Image.new("RGB", (32, 32)), {"prompt": "a hill", "seed": 5}, {})
    name = page.desk.outputs.add(BROWSER, result, "png", 90).name
    assert httpx.get(f"{page.url}/outputs/{BROWSER}/{name}").status_code == 404


def test_a_program_gets_the_image_and_how_it_was_made(client, hill, desk):
    path = client.predict(
        prompt="a hill",
        ref_image1=handle_file(str(hill)),
        ref_task1="style",
        output_format="png",
        api_name="/generate",
        **SMALL,
    )
    metadata = read_metadata(path)
    assert (metadata["prompt"], metadata["seed"]) == ("a hill", 5)
    assert (metadata["ref_task1"], metadata["output_format"]) == ("style", "png")
    with Image.open(path) as image:
        assert image.size == (768, 768)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"prompt": ""}, "prompt: is empty"),
        ({"prompt": "a hill", "seed": "2e9"}, "seed: "),
        ({"prompt": "a hill", "width": 770}, "width: 770 is not a multiple of 16"),
        ({"prompt": "a hill", "cfg_start_step": 5}, "cfg_start_step: 5 is greater"),
    ],
)
def test_a_program_is_refused_in_the_predictors_words(client, inputs, problem):
    with pytest.raises(AppError) as error:
        client.predict(api_name="/generate", **SMALL | inputs)
    assert str(error.value).startswith(problem)


def test_nothing_of_a_programs_image_stays_after_the_cleanup(page, drawn):
    before = {*Path(page.uploads).iterdir()}
    _, (image,) = ask(page.url, {"prompt": "a hill"})
    (made,) = {*Path(page.uploads).iterdir()} - before
    assert made == Path(image["path"])
    assert re.fullmatch(r"[0-9a-f]{32}", made.stem)
    delete_files_created_by_app(page.blocks, -1)
    assert not made.exists()


def test_an_upload_that_is_no_image_is_refused_by_its_slot(client, tmp_path):
    page = tmp_path / "page.png"
    page.write_text("<!doctype html><p>not an image")
    with pytest.raises(AppError, match="ref_image1: this is an HTML page"):
        client.predict(
            prompt="a hill", ref_image1=handle_file(str(page)), api_name="/generate", **SMALL
        )


def test_dream_render_wants_a_key(client):
    inputs = {"model": "miniature", "prompt": "a shoe", "width": 64, "height": 64, "steps": 2}
    with pytest.raises(AppError, match="dev_key: not recognised"):
        client.predict(dev_key="another", api_name="/render", **inputs)
    path = client.predict(dev_key=KEY, api_name="/render", **inputs)
    assert KEY not in str(read_metadata(path))
    with Image.open(path) as image:
        assert image.size == (64, 64)


def test_the_programs_endpoints_are_two_and_take_what_the_schemas_say(page):
    endpoints = httpx.get(f"{page.url}/gradio_api/info").json()["named_endpoints"]
    assert set(endpoints) == {"/generate", "/render"}
    names = [each["parameter_name"] for each in endpoints["/generate"]["parameters"]]
    assert names[:3] == ["prompt", "ref_image1", "ref_task1"]
    assert len(names) == 19


def test_twenty_users_at_once_are_answered_one_after_the_other(page, drawn):
    process = psutil.Process()

    def user(number):
        _, (image,) = ask(page.url, {"prompt": f"hill {number}"})
        return read_metadata(image["path"])["prompt"]

    def round_of(count):
        with ThreadPoolExecutor(20) as users:
            return list(users.map(user, range(count)))

    assert round_of(20) == [f"hill {number}" for number in range(20)]
    round_of(20)
    before = process.memory_info().rss
    assert len(round_of(20)) == 20
    assert max(drawn) == 1
    assert process.memory_info().rss - before < 30e6


def join(page, prompt, tab, **inputs):
    """Lets a browser tab wait for an image."""
    names = [each["parameter_name"] for each in parameters(page.url)]
    defaults = {each["parameter_name"]: each["parameter_default"] for each in parameters(page.url)}
    values = {**defaults, **SMALL, "prompt": prompt, **inputs}
    return send(page, "queue/join", tab, "api_name", "generate", [values[name] for name in names])


def send(page, route, tab, name, value, data=()):
    """Triggers the event of the page's configuration whose `name` has this value."""
    (event,) = (each for each in page.config["dependencies"] if each[name] == value)
    body = {"data": list(data), "fn_index": event["id"], "session_hash": tab}
    answer = httpx.post(f"{page.url}/gradio_api/{route}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def told(page, tab):
    """What a browser tab is told until nothing of its is left in the queue."""
    address = f"{page.url}/gradio_api/queue/data"
    answer = httpx.get(address, params={"session_hash": tab}, timeout=120)
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.fixture
def line(page, monkeypatch):
    """Requests wait until `go` is set; `prompts` are those that were answered, in order."""

    class Line:
        go, prompts = threading.Event(), []

    def generate(request, on_step=None):
        Line.go.wait(60)
        Line.prompts.append(request.prompt)
        image = Image.new("RGB", (request.width, request.height), "teal")
        return Result(image, {"prompt": request.prompt, "seed": request.seed}, {"steps": 8})

    monkeypatch.setattr(page.desk.dream_o, "generate", generate)
    page.config = httpx.get(f"{page.url}/config").json()
    yield Line
    Line.go.set()


def waiting(page):
    """How many requests wait, as Prometheus or a user cannot see it before their turn."""
    return len(page.blocks._queue)


def cancel(page, tab):
    (button,) = (
        each["id"] for each in page.config["components"] if each["props"].get("elem_id") == "cancel"
    )
    return send(page, "run/predict", tab, "targets", [[button, "click"]])


def test_a_request_that_is_cancelled_leaves_the_queue(page, line):
    tabs = [secrets.token_hex(4) for _ in range(4)]
    for tab in tabs:
        join(page, f"hill {tab}", tab)
    until(lambda: waiting(page) == 3)
    answer = cancel(page, tabs[2])
    assert "cancelled; " in str(answer["data"])
    assert waiting(page) == 2
    (*_, ended) = (each for each in told(page, tabs[2]) if each["msg"] == "process_completed")
    assert ended["success"]
    line.go.set()
    for tab in (tabs[0], tabs[1], tabs[3]):
        told(page, tab)
    assert line.prompts == [f"hill {tab}" for tab in (tabs[0], tabs[1], tabs[3])]


def test_cancelling_leaves_the_previews_of_references_in_the_queue(page, line, hill, monkeypatch):
    def prepare(*_):
        line.go.wait(60)
        raise InputError("ref_image1", "was looked at")

    monkeypatch.setattr(page.desk, "prepare", prepare)
    files = {"files": ("hill.png", hill.read_bytes())}
    path = httpx.post(f"{page.url}/gradio_api/upload", files=files).json()[0]
    values = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "ip", 512]
    ids = {each["props"].get("elem_id"): each["id"] for each in page.config["components"]}
    targets = [
        [ids["reference-1"], "change"],
        [ids["task-1"], "change"],
        [ids["input-ref_res"], "release"],
    ]
    for tab in ("other", "mine"):
        send(page, "queue/join", tab, "targets", targets, values)
        join(page, f"hill {tab}", tab)
    until(lambda: waiting(page) == 2)
    assert "cancelled; " in str(cancel(page, "mine")["data"])
    assert waiting(page) == 1
    line.go.set()
    assert "was looked at" in str(told(page, "mine"))
    told(page, "other")
    assert line.prompts == ["hill other"]


def test_cancelling_takes_nothing_from_others(page, line):
    join(page, "a hill", "one")
    join(page, "a hut", "two")
    until(lambda: waiting(page) == 1)
    answer = cancel(page, "three")
    assert "cancelled" not in str(answer["data"])
    assert waiting(page) == 1
    line.go.set()
    told(page, "two")
    assert line.prompts == ["a hill", "a hut"]


def test_an_upload_stays_while_a_request_waits_for_it(page, line, hill):
    """Gradio deletes uploads after an hour; a request can wait longer."""
    files = {"files": ("hill.png", hill.read_bytes())}
    sent = [
        Path(
            httpx.post(
                f"{page.url}/gradio_api/upload", files=files | {"files": (name, body)}
            ).json()[0]
        )
        for name, body in (("a.png", b"used"), ("b.png", b"not used"))
    ]
    named = {"path": str(sent[0]), "meta": {"_type": "gradio.FileData"}}
    join(page, "first", "one")
    until(lambda: waiting(page) == 0)
    join(page, "second", "two", ref_image1=named)
    until(lambda: waiting(page) == 1)
    delete_files_created_by_app(page.blocks, -1)
    assert [each.exists() for each in sent] == [True, False]
    line.go.set()
    told(page, "two")
    delete_files_created_by_app(page.blocks, -1)
    assert not sent[0].exists()


def test_twenty_users_are_answered_in_the_order_in_which_they_came(page, line):
    tabs = [secrets.token_hex(4) for _ in range(20)]
    for tab in tabs:
        join(page, f"hill {tab}", tab)
    until(lambda: waiting(page) == 19)
    with ThreadPoolExecutor(20) as users:
        answers = [users.submit(told, page, tab) for tab in tabs]
        line.go.set()
        for each in answers:
            ended = each.result()[-2:]
            assert [event["msg"] for event in ended] == ["process_completed", "close_stream"]
            assert ended[0]["success"]
    assert line.prompts == [f"hill {tab}" for tab in tabs]
    assert waiting(page) == 0
    assert queued_inputs(page.blocks) == []
    assert not any(page.desk.runs.has(tab) for tab in tabs)
    assert list(Path(page.uploads).glob("held-*")) == []


def test_agents_find_the_tools_and_get_an_image(desk, drawn):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    # By this header a caller could send all later calls to another host.
    elsewhere = {"X-Forwarded-Host": "127.0.0.1:9"}

    async def ask(url):
        async with (
            httpx.AsyncClient(headers=elsewhere, timeout=60) as http,
            streamable_http_client(f"{url}/gradio_api/mcp/", http_client=http) as (
                reading,
                writing,
                _,
            ),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            answer = await session.call_tool("generate", {"prompt": "a hill", **SMALL})
            return tools, answer

    with Served(desk, mcp=True) as served:
        tools, answer = asyncio.run(ask(served.url))
    assert sorted(tool.name for tool in tools) == ["generate", "render"]
    assert "Prompt for image generation" in str(tools)
    assert not answer.isError
    images = [each for each in answer.content if each.type == "image"]
    with Image.open(io.BytesIO(base64.b64decode(images[0].data))) as image:
        assert image.size == (768, 768)


def test_prometheus_counts_what_was_asked(page, drawn):
    def counted(outcome):
        labels = f'{{endpoint="page",outcome="{outcome}"}}'
        found = re.search(rf"dream_o_requests_total{labels} (\d+)", httpx.get(url).text)
        return int(found[1]) if found else 0

    url = f"{page.url}/metrics"
    before = counted("succeeded")
    ask(page.url, {"prompt": "a hill"})
    ask(page.url, {"prompt": "a hill"})
    assert counted("succeeded") == before + 2
    text = httpx.get(url).text
    assert 'dream_o_requests_in_progress{endpoint="page"} 0.0' in text
    assert "hill" not in text


def test_without_the_flag_there_is_no_mcp_server(page):
    assert httpx.get(f"{page.url}/gradio_api/mcp/schema").status_code == 404


def test_with_accounts_nothing_is_given_before_the_login(desk):
    result = Result(Image.new("RGB", (32, 32)), {"prompt": "a hill", "seed": 5}, {})
    name = desk.outputs.add(BROWSER, result, "png", 90).name
    with Served(desk, accounts={"ann": "sesame"}) as served, httpx.Client() as http:
        output = f"{served.url}/outputs/{place_of(BROWSER)}/{name}"
        paths = ("config", "gradio_api/info", "metrics")
        protected = [output, *(f"{served.url}/{path}" for path in paths)]
        assert {http.get(url).status_code for url in protected} == {401}
        for wrong in ({"username": "ann", "password": "x"}, {"username": "bob", "password": "x"}):
            assert http.post(f"{served.url}/login", data=wrong).status_code == 400
        right = {"username": "ann", "password": "sesame"}
        assert http.post(f"{served.url}/login", data=right).status_code == 200
        assert {http.get(url).status_code for url in protected} == {200}


def test_both_models_work_in_one_thread(desk):
    assert isinstance(desk, Desk)
    assert desk.render.thread is desk.dream_o.thread
