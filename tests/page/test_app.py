import asyncio
import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from dream_o.images.writing import read_metadata
from dream_o.page.desk import Desk
from dream_o.page.outputs import place_of
from dream_o.service.request import Reference
from dream_o.service.result import Result
from tests.page.served import KEY, SMALL, Served, ask

BROWSER, OTHER = "0" * 32, "f" * 32


@pytest.fixture
def desk(page):
    return page.desk


@pytest.fixture(scope="module")
def client(page):
    return Client(page.url, verbose=False)


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


def test_another_site_can_neither_send_requests_nor_read_answers(page, drawn):
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


def test_a_url_in_place_of_an_upload_is_refused(page, drawn):
    """Gradio would download the URL into memory, without a limit of size."""
    named = {"path": "https://example.com/x.png", "meta": {"_type": "gradio.FileData"}}
    event, data = ask(page.url, {"prompt": "a hill", "ref_image1": named})
    assert (event, drawn) == ("error", [])
    assert "send the image, not its address" in str(data)


def test_a_browsers_key_is_not_part_of_an_address(page):
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


def test_gradios_cleanup_deletes_a_programs_image(page, drawn):
    before = {*Path(page.uploads).iterdir()}
    _, (image,) = ask(page.url, {"prompt": "a hill"})
    (made,) = {*Path(page.uploads).iterdir()} - before
    assert made == Path(image["path"])
    assert re.fullmatch(r"[0-9a-f]{32}", made.stem)
    page.forget_uploads()
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


def test_agents_find_the_tools_and_get_an_image(desk, drawn):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    # Gradio would take the host of all later calls from this header.
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
