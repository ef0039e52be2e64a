"""The examples in docs/batch.md for requests that arrive one at a time."""

import importlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType, SimpleNamespace

import pytest
import ray
import yaml
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from dream_o.batch import worker
from dream_o.batch.contents import as_data_url
from dream_o.images.writing import read_metadata
from tests import ROOT
from tests.batch.stub import StubLoad, calls
from tests.requests_table import encoded, picture

MINUTES = 60


@pytest.fixture(scope="module")
def container():
    text = (ROOT / "docs" / "batch.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    deployment, _ = yaml.safe_load_all(text)
    return deployment["spec"]["template"]["spec"]["containers"][0]


def test_the_probes_wait_for_setup_and_restart_a_broken_container_soon(container):
    start, live = container["startupProbe"], container["livenessProbe"]
    assert start["failureThreshold"] * start["periodSeconds"] >= 60 * MINUTES
    assert live["failureThreshold"] * live["periodSeconds"] <= 5 * MINUTES
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert all(each["timeoutSeconds"] >= 5 for each in probes)
    assert len({json.dumps(each["exec"]) for each in probes}) == 1


@pytest.mark.parametrize(
    ("status", "code"), [("READY", 0), ("BUSY", 0), ("STARTING", 1), ("UNHEALTHY", 1)]
)
def test_the_probe_reads_the_status_of_the_health_check(container, status, code):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"status": status}).encode())
            assert self.path == "/health-check"

        def log_message(self, *_):
            pass

    _, option, script = container["startupProbe"]["exec"]["command"]
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = script.replace("5000", str(server.server_port))
        assert subprocess.run([sys.executable, "-S", option, script]).returncode == code
        server.shutdown()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Replaces Ray Serve: keeps the deployed class, which the tests then call."""
    serve = ModuleType("ray.serve")
    serve.Application = object
    serve.deployment = lambda what, **options: SimpleNamespace(
        bind=lambda: SimpleNamespace(what=what, options=options)
    )
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    monkeypatch.setattr(ray, "serve", serve, raising=False)
    monkeypatch.setattr(worker, "LoadedDreamO", lambda *_: StubLoad(tmp_path)(None))
    monkeypatch.delitem(sys.modules, "examples.ray_serve", raising=False)
    yield importlib.import_module("examples.ray_serve")
    sys.modules.pop("examples.ray_serve", None)


def test_ray_serve_has_one_replica_per_gpu_or_one_on_the_cpu(serve):
    gpus, cpu = serve.app({"gpus": "4"}).options, serve.app({}).options
    assert gpus["ray_actor_options"] == {"num_gpus": 1}
    assert gpus["autoscaling_config"]["max_replicas"] == 4
    assert cpu["ray_actor_options"] == {"num_cpus": 1}
    assert cpu["autoscaling_config"]["max_replicas"] == 1
    assert gpus["max_ongoing_requests"] == 1


def test_ray_serve_answers_with_the_image_or_the_mistakes(serve, tmp_path):
    replica = serve.app({}).what()
    web = TestClient(Starlette(routes=[Route("/", replica.__call__, methods=["POST"])]))
    given = {"prompt": "a hill", "seed": 3, "output_format": "png"}
    answer = web.post("/", json=given | {"ref_image1": as_data_url(encoded(picture()))})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    (tmp_path / "answer.png").write_bytes(answer.content)
    assert read_metadata(tmp_path / "answer.png")["seed"] == 3
    for wrong, sentence in (
        (given | {"width": 1}, "width: 1 is out of range; use 768 to 1024"),
        (given | {"ref_image1": "/etc/passwd"}, "ref_image1: send a data URL or an http(s) URL"),
        ({"prompt": "always: refuse"}, "ref_image1: no face found"),
        ([], "send the inputs as a JSON object"),
    ):
        answer = web.post("/", json=wrong)
        assert (answer.status_code, answer.json()) == (422, {"errors": [sentence]})
    assert [prompt for _, prompt in calls(tmp_path)] == ["a hill", "always: refuse"]
    replica.check_health()
    replica.dream_o.healthy = False
    with pytest.raises(RuntimeError, match="the device does not compute"):
        replica.check_health()
