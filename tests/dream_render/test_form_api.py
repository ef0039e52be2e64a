"""The form endpoint: what reaches the Cog server, and what comes back, without that server."""

import json
import logging
import socket
import urllib.parse
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dream_o.dream_render.form_api import ENDPOINT, create_app, main
from dream_o.dream_render.form_body import FORM_TYPES, MAX_BODY_BYTES
from tests.dream_render.form_server import (
    DOCUMENT,
    FORM,
    KEY,
    PNG,
    TYPED,
    Cog,
    multipart,
    refused,
    serving,
)
from tests.server.client import until


@pytest.mark.parametrize("encode", [multipart, lambda fields: {"data": fields}])
def test_the_documented_request_gives_the_image(
    client: httpx.Client, cog: Cog, encode: Callable[[dict[str, str]], dict[str, Any]]
) -> None:
    response = client.post(ENDPOINT, **encode(FORM))
    assert response.status_code == 200
    assert response.content == PNG
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-seed"] == str(2**62 + 1)
    assert cog.inputs == [TYPED]
    assert {name: type(value) for name, value in cog.inputs[0].items()} == {
        name: type(value) for name, value in TYPED.items()
    }


CHANGES: list[tuple[str, str, Any]] = [
    ("dev_key", "another", "another"),
    ("model", "sd_xl_base_1.0", "sd_xl_base_1.0"),
    ("prompt", 'Grüße, "quoted"; 靴\n2', 'Grüße, "quoted"; 靴\n2'),
    ("width", "576", 576),
    ("height", "640", 640),
    ("seed", "42", 42),
    ("styles", "anime,origami", "anime,origami"),
    ("cfg_scale", "7.5", 7.5),
    ("steps", "1", 1),
    ("enable_hr", "TRUE", True),
    ("negative_prompt", "blur", "blur"),
    ("prompt_temp", "0", 0.0),
    ("prompt_top_p", "1.0", 1.0),
    ("designer", "tRuE", True),
    ("enhance_prompt", "false", False),
    ("output_format", "webp", "webp"),
    ("output_quality", "70", 70),
]


@pytest.mark.parametrize(("name", "text", "value"), CHANGES)
def test_each_field_reaches_the_server_in_its_type(
    client: httpx.Client, cog: Cog, name: str, text: str, value: Any
) -> None:
    assert client.post(ENDPOINT, **multipart(FORM | {name: text})).status_code == 200
    assert cog.inputs == [TYPED | {name: value}]


def test_only_the_required_fields_are_needed(client: httpx.Client, cog: Cog) -> None:
    required = DOCUMENT["components"]["schemas"]["Input"]["required"]
    fields = {name: FORM[name] for name in required}
    assert client.post(ENDPOINT, **multipart(fields)).status_code == 200
    assert cog.inputs == [{name: TYPED[name] for name in required}]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": "wide"}, ["width: 'wide' is not a whole number"]),
        ({"width": "512.5"}, ["width: "]),
        ({"width": "9"}, ["width: 9 ", "64"]),
        ({"height": "4096"}, ["height: 4096 ", "2048"]),
        ({"seed": "-2"}, ["seed: -2 ", "-1"]),
        ({"prompt_temp": "9"}, ["prompt_temp: 9", "2"]),
        ({"prompt_top_p": "nan"}, ["prompt_top_p: 'nan' is not a number"]),
        ({"cfg_scale": ""}, ["cfg_scale: '' is not a number"]),
        ({"steps": "151"}, ["steps: 151 ", "150"]),
        ({"enable_hr": "yes"}, ["enable_hr: 'yes' is not true or false"]),
        ({"output_format": "gif"}, ["output_format: 'gif'", "png"]),
        ({"cfgscale": "7"}, ["cfgscale", "cfg_scale"]),
        ({"width=64": "7"}, ["width=64: there is no such input"]),
        ({"cfg_scale": "1_0"}, ["cfg_scale: '1_0' is not a number"]),
        ({"cfg_scale": "７"}, ["cfg_scale: '７' is not a number"]),
        ({"cfg_scale": "1e999"}, ["cfg_scale: '1e999' is not a number"]),
        ({"prompt_temp": "1" + "0" * 300_000}, ["prompt_temp: '1000", "' is not a number"]),
    ],
)
def test_a_field_that_is_not_allowed_is_named_with_what_is(
    client: httpx.Client, cog: Cog, fields: dict[str, str], named: list[str]
) -> None:
    error = refused(client.post(ENDPOINT, **multipart(FORM | fields)), 422)
    assert error.startswith(named[0])
    assert all(each in error for each in named)
    assert cog.inputs == []


@pytest.mark.parametrize(
    ("name", "text"), [("width", "x"), ("output_format", "x"), ("prompt_temp", "x"), ("x", "")]
)
def test_an_error_repeats_the_beginning_of_what_was_sent(
    client: httpx.Client, name: str, text: str
) -> None:
    changes = {name: text * 5000} if text else {name * 5000: ""}
    assert len(refused(client.post(ENDPOINT, **multipart(FORM | changes)), 422)) < 500


@pytest.mark.parametrize("text", ["7", "7.", "+7.0", "70e-1", "0.7E1"])
def test_a_number_may_be_written_in_any_of_the_usual_ways(
    client: httpx.Client, cog: Cog, text: str
) -> None:
    assert client.post(ENDPOINT, **multipart(FORM | {"cfg_scale": text})).status_code == 200
    assert cog.inputs == [TYPED]


@pytest.mark.parametrize("name", ["model", "prompt", "width", "height"])
def test_a_missing_field_is_named(client: httpx.Client, name: str) -> None:
    fields = {each: value for each, value in FORM.items() if each != name}
    assert refused(client.post(ENDPOINT, **multipart(fields)), 422).startswith(
        f"{name}: is required"
    )


def test_a_file_or_a_field_given_twice_is_named(client: httpx.Client) -> None:
    as_file = client.post(ENDPOINT, data=FORM, files={"negative_prompt": ("a.txt", b"blur")})
    assert "negative_prompt: " in refused(as_file, 422)
    twice = [(name, (None, value)) for name, value in FORM.items()] + [("width", (None, "64"))]
    assert refused(client.post(ENDPOINT, files=twice), 422).startswith("width: is given twice")


def test_a_form_that_is_none_or_broken(client: httpx.Client, cog: Cog) -> None:
    refused(client.post(ENDPOINT, json=FORM), 415)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"nonsense", b"--x\r\nContent-Disposition: nothing\r\n\r\n1\r\n--x--\r\n"):
        assert client.post(ENDPOINT, content=body, headers=headers).status_code in (401, 422)
    no_boundary = client.post(
        ENDPOINT, content=b"x", headers={"content-type": "multipart/form-data"}
    )
    refused(no_boundary, 422)
    assert cog.inputs == []


CODECS = ("punycode", "undefined", "unicode_escape", "idna", "latin-1", "utf-16", "no-such-one")


@pytest.mark.parametrize("charset", CODECS)
@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", FORM_TYPES[1]])
def test_a_form_in_another_charset_is_refused(
    client: httpx.Client, cog: Cog, kind: str, charset: str
) -> None:
    part = '--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\\ud800-\r\n--x--\r\n'
    body = part if kind.startswith("multipart") else "prompt=a"
    headers = {"content-type": f"{kind}; charset={charset}"}
    assert "UTF-8" in refused(client.post(ENDPOINT, content=body, headers=headers), 415)
    assert cog.inputs == []


def test_a_form_without_its_last_boundary_is_refused(client: httpx.Client, cog: Cog) -> None:
    request = client.build_request("POST", ENDPOINT, **multipart(FORM))
    body = request.read()
    end = body.rindex(b"--" + request.headers["content-type"].partition("boundary=")[2].encode())
    cut = client.post(
        ENDPOINT, content=body[:end], headers={"content-type": request.headers["content-type"]}
    )
    assert "last boundary" in refused(cut, 422)
    assert cog.inputs == []


@pytest.mark.parametrize("kind", FORM_TYPES)
def test_bytes_that_are_no_utf_8_are_refused(client: httpx.Client, cog: Cog, kind: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--x--\r\n'
    body = part if kind == FORM_TYPES[0] else b"prompt=%ff"
    headers = {"content-type": f"{kind}; boundary=x"}
    assert "UTF-8" in refused(client.post(ENDPOINT, content=body, headers=headers), 415)
    assert cog.inputs == []


def test_a_form_that_says_it_is_in_utf_8_is_read(client: httpx.Client, cog: Cog) -> None:
    body = urllib.parse.urlencode(FORM | {"prompt": "靴"})
    headers = {"content-type": f'{FORM_TYPES[1]}; charset="UTF-8"'}
    assert client.post(ENDPOINT, content=body, headers=headers).status_code == 200
    assert cog.inputs == [TYPED | {"prompt": "靴"}]


def test_what_nobody_foresaw_is_500_without_a_traceback(client: httpx.Client, cog: Cog) -> None:
    def broken() -> httpx.Response:
        raise ArithmeticError("a secret of the inside")

    cog.answer = broken
    error = refused(client.post(ENDPOINT, **multipart(FORM)), 500)
    assert "secret" not in error
    assert "Traceback" not in error


def test_a_client_that_leaves_during_its_upload_is_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    caplog.set_level(logging.INFO)
    with serving(create_app("http://cog", DOCUMENT)) as url:
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port)) as upload:
            upload.sendall(
                f"POST {ENDPOINT} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                f"Content-Type: {FORM_TYPES[1]}\r\n\r\nprompt=".encode()
            )
        until(lambda: '"status": 499' in caplog.text, "the endpoint to notice")
    lines = [each.getMessage() for each in caplog.records if each.name.startswith("dream_o")]
    assert [json.loads(line)["status"] for line in lines] == [499]
    assert not any(each.exc_info for each in caplog.records)


def test_without_a_key_the_answer_is_401(client: httpx.Client, cog: Cog) -> None:
    fields = {name: value for name, value in FORM.items() if name != "dev_key"}
    assert refused(client.post(ENDPOINT, **multipart(fields)), 401).startswith("dev_key: ")
    assert cog.inputs == []


def test_keys_that_are_known_here_are_checked_before_anything_else(cog: Cog) -> None:
    app = create_app("http://cog", DOCUMENT, ("other", KEY), httpx.MockTransport(cog))
    with serving(app) as url:
        wrong = httpx.post(url + ENDPOINT, **multipart({**FORM, "dev_key": "no", "width": "x"}))
        assert refused(wrong, 401) == "dev_key: not recognised"
        assert cog.inputs == []
        assert httpx.post(url + ENDPOINT, **multipart(FORM)).status_code == 200


def test_cogs_own_validation_is_422_and_names_the_field(client: httpx.Client, cog: Cog) -> None:
    cog.says(422, json={"detail": [{"loc": ["body", "input", "steps"], "msg": "too many"}]})
    assert refused(client.post(ENDPOINT, **multipart(FORM)), 422) == "steps: too many"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(client: httpx.Client, cog: Cog, chunked: bool) -> None:
    body = b"prompt=" + b"x" * MAX_BODY_BYTES
    content: Any = (body[i : i + 50_000] for i in range(0, len(body), 50_000)) if chunked else body
    headers = {"content-type": "application/x-www-form-urlencoded"}
    response = client.post(ENDPOINT, content=content, headers=headers)
    assert "larger" in refused(response, 413)
    assert cog.inputs == []
    fits = {**FORM, "prompt": "x" * (MAX_BODY_BYTES - 5000)}
    assert client.post(ENDPOINT, **multipart(fits)).status_code == 200


def test_other_paths_and_methods_are_refused_as_json(client: httpx.Client) -> None:
    assert refused(client.get("/nothing"), 404)
    assert refused(client.get(ENDPOINT), 405)


def test_its_openapi_page_describes_the_form(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"][ENDPOINT]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    inputs = DOCUMENT["components"]["schemas"]["Input"]
    assert form["required"] == inputs["required"]
    assert list(form["properties"]) == list(inputs["properties"])
    assert form["properties"]["output_format"]["enum"] == ["webp", "jpg", "png"]
    assert "$ref" not in json.dumps(form)
    assert set(operation["responses"]) >= {"200", "401", "413", "422", "502", "503"}
    assert client.get("/docs").status_code == 200


def test_the_log_has_a_line_a_request_without_key_or_prompt(
    client: httpx.Client,
    cog: Cog,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    caplog.set_level(logging.INFO, "dream_o")
    client.post(f"{ENDPOINT}?dev_key={KEY}", **multipart(FORM | {"prompt": "secret thing"}))
    client.post(ENDPOINT, **multipart(FORM | {"width": "x"}))
    lines = [each.getMessage() for each in caplog.records if each.name.startswith("dream_o")]
    made, refused_one = map(json.loads, lines)
    assert [each["event"] for each in (made, refused_one)] == ["request", "request"]
    assert [each["status"] for each in (made, refused_one)] == [200, 422]
    assert {name: made[name] for name in ("width", "height", "steps", "model", "seed")} == {
        "width": 512,
        "height": 512,
        "steps": 30,
        "model": "miniature",
        "seed": 2**62 + 1,
    }
    assert made["bytes_out"] == len(PNG)
    assert made["bytes_in"] > 500
    assert made["seconds"] == {"paint": 1.5, "prompt": 0.25}
    assert made["seconds_total"] > 0
    assert made["id"] == cog.ids[0]
    assert KEY not in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "--target"),
        (["--target", "localhost:5000"], "http"),
        (["--target", "http://x", "--port", "0"], "--port 0"),
    ],
)
def test_a_wrong_argument_is_one_line(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert problem in captured.err


def test_prompts_are_logged_when_asked_for_and_keys_never(
    cog: Cog, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    caplog.set_level(logging.INFO, "dream_o")
    app = create_app("http://cog", DOCUMENT, transport=httpx.MockTransport(cog), log_prompts=True)
    with serving(app) as url:
        httpx.post(url + ENDPOINT, **multipart(FORM | {"prompt": "a red shoe"}), trust_env=False)
    (line,) = [each.getMessage() for each in caplog.records if each.name.startswith("dream_o")]
    assert json.loads(line)["prompt"] == "a red shoe"
    assert KEY not in line


def test_an_answer_names_its_request_in_both_logs(client: httpx.Client, cog: Cog) -> None:
    first, second = (client.post(ENDPOINT, **multipart(FORM)) for _ in range(2))
    assert [first.headers["x-request-id"], second.headers["x-request-id"]] == cog.ids
    assert len(set(cog.ids)) == 2
    refused_one = client.post(ENDPOINT, **multipart(FORM | {"width": "x"}))
    assert refused_one.headers["x-request-id"]


def test_metrics_count_requests_seconds_and_bytes_in_prometheus_format(
    client: httpx.Client, cog: Cog
) -> None:
    client.post(ENDPOINT, **multipart(FORM))
    client.post(ENDPOINT, **multipart(FORM))
    client.post(ENDPOINT, **multipart(FORM | {"width": "x"}))
    cog.health = "READY"
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["dream_o_requests_total", "form", "200"] == 2
    assert found["dream_o_requests_total", "form", "422"] == 1
    assert found["dream_o_request_seconds_count", "form"] == 3
    assert found["dream_o_stage_seconds_sum", "form", "paint"] == 3.0
    assert found["dream_o_image_bytes_total", "form"] == 2 * len(PNG)
    assert found["dream_o_requests_in_progress", "form"] == 0
    assert found["dream_o_server_ready",] == 1
    assert KEY not in answer.text
    cog.health = "UNHEALTHY"
    assert "dream_o_server_ready 0.0" in client.get("/metrics").text
