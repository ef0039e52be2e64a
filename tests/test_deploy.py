"""compose.yaml, cog-safe-push.yaml, the workflow and the page on deploying, as far as they can be
checked without Docker, Replicate and GitHub."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from dream_o.cli.package import _parser
from dream_o.package.plan import COG_VERSION, DRIVER_VERSION
from dream_o.server import health, watch
from tests import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
# github.com/replicate/cog-safe-push, cog_safe_push/config.py: no other key is taken.
SAFE_PUSH = {"model", "test_model", "test_hardware", "predict", "parallel"}
PREDICT = {"compare_outputs", "predict_timeout", "test_cases", "fuzz"}
CASE = {"inputs", "match_prompt", "error_contains", "exact_string", "match_url", "jq_query"}
FUZZ = {"fixed_inputs", "disabled_inputs", "iterations", "prompt"}


def inputs_of(name: str) -> set[str]:
    document = json.loads((ROOT / "tests/data/contract" / name).read_text())
    return set(document["components"]["schemas"]["Input"]["properties"])


def yaml_blocks() -> list[dict]:
    return [yaml.safe_load(each) for each in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_managed_weights_follow_cogs_rules():
    (config,) = [each for each in yaml_blocks() if "weights" in each]
    assert re.fullmatch(r"[a-z0-9.]+(/[A-Za-z0-9-]+)+", config["model"])
    assert ":" not in config["model"], "a bare repository"
    assert "image" not in config
    (entry,) = config["weights"]
    assert re.fullmatch(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", entry["name"])
    assert entry["target"].startswith("/src/weights/")
    assert entry["source"]["uri"] == entry["target"].removeprefix("/src/")


def test_safe_push_has_keys_and_inputs_that_exist():
    config = yaml.safe_load((ROOT / "cog-safe-push.yaml").read_text())
    assert set(config) <= SAFE_PUSH
    predict = config["predict"]
    assert set(predict) <= PREDICT
    assert set(predict["fuzz"]) <= FUZZ
    known = inputs_of("dream-o.openapi.json")
    for case in predict["test_cases"]:
        assert set(case) <= CASE
        assert set(case["inputs"]) <= known
    assert set(predict["fuzz"]["disabled_inputs"]) | set(predict["fuzz"]["fixed_inputs"]) <= known


def test_compose_has_a_gpu_a_cache_and_a_bundle_that_nobody_writes_to():
    config = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = config["services"]["dream-o"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    bundle, cache = service["volumes"]
    assert bundle["read_only"] is True
    assert bundle["target"] == service["environment"]["DREAM_O_WEIGHTS"]
    volume, _, place = cache.partition(":")
    assert volume in config["volumes"]
    assert service["environment"]["TORCHINDUCTOR_CACHE_DIR"].startswith(f"{place}/")


@pytest.mark.parametrize(("status", "healthy"), [("READY", True), ("STARTING", False)])
def test_composes_health_check_knows_a_server_that_is_ready(status, healthy):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": status}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """No lines on stderr."""

    config = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = config["services"]["dream-o"]
    how, *command = service["healthcheck"]["test"]
    assert (how, command[0]) == ("CMD", "python")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    run = subprocess.run(
        [sys.executable, *command[1:]],
        check=False,
        cwd=ROOT,
        env=os.environ | {"PORT": str(server.server_address[1])},
    )
    thread.join()
    server.server_close()
    assert (run.returncode == 0) is healthy


def test_compose_and_kubernetes_start_a_server_that_ends_when_it_is_lost():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["dream-o"]
    (pod,) = [each for each in yaml_blocks() if "containers" in each]
    (container,) = pod["containers"]
    assert service["command"] == container["command"]
    assert service["command"][:3] == ["python", "-m", watch.__name__]
    assert service["restart"] != "no"
    alive = container["livenessProbe"]["exec"]["command"]
    ready = container["readinessProbe"]["exec"]["command"]
    assert service["healthcheck"]["test"][1:] == ready
    assert alive == [*ready, "--alive"]
    assert ready == ["python", "-m", health.__name__]


def test_the_page_says_which_cog_and_which_driver():
    assert f"Cog {COG_VERSION} or newer" in PAGE
    assert f"version {DRIVER_VERSION} or newer" in PAGE


def test_the_commands_of_the_page_are_taken_by_the_command_line():
    commands = re.findall(r"dream-o package ((?:[^\n]*\\\n)*[^\n]*)", PAGE)
    commands = [each for each in commands if "--output" in each]
    assert len(commands) >= 4
    for command in commands:
        words = command.replace("\\\n", " ").split()
        assert _parser().parse_args(words).output.name == "image"


def test_the_workflow_names_secrets_and_never_writes_inputs_into_a_shell():
    config = yaml.safe_load((ROOT / ".github/workflows/push.yml").read_text())
    steps = config["jobs"]["push"]["steps"]
    assert not [step for step in steps if "${{" in step.get("run", "")]
    assert any("dream-o package --fetch" in step.get("run", "") for step in steps)
    (name,) = [step["env"]["TOKEN"] for step in steps if "TOKEN" in step.get("env", {})]
    assert "secrets.REPLICATE_API_TOKEN" in name
