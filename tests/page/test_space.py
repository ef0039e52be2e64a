import re
import runpy
import shutil
import socket
import sys
import tomllib

import pytest
import uvicorn
import yaml
from packaging.requirements import Requirement
from starlette.testclient import TestClient

from dream_o.page.desk import Desk
from tests import ROOT

SPACE = ROOT / "examples" / "space"


@pytest.fixture
def checkout(tmp_path):
    """A Space, made of the folders that its README names."""
    archive, *_ = re.findall(r"git archive HEAD (.+) \| tar", (SPACE / "README.md").read_text())
    for name in archive.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    for file in SPACE.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    return tmp_path


@pytest.fixture
def started(desk, monkeypatch):
    """Runs a file that serves a page; returns the application and the address."""
    monkeypatch.setattr(Desk, "load", lambda _: desk)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", port])
    servers = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: servers.append(server))

    def start(file):
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(file), run_name="__main__")
        assert ended.value.code == 0
        return servers[-1].config

    return start


def test_the_spaces_file_serves_the_page_from_a_clone(started):
    config = started(SPACE / "app.py")
    assert sys.path[0] == str(ROOT)
    assert config.host == "0.0.0.0"
    proxied = {"host": "owner-name.hf.space", "origin": "https://owner-name.hf.space"}
    with TestClient(config.app) as client:
        assert "DreamO" in client.get("/", headers=proxied).text
        assert client.get("/", headers=proxied | {"origin": "https://evil.example"}).is_error


def test_the_spaces_file_finds_the_package_in_its_folder(started, checkout):
    started(checkout / "app.py")
    assert sys.path[0] == str(checkout)
    for needed in ("dream_o/page/page.js", "predict.py", "weights/miniature", "examples/mug.png"):
        assert (checkout / needed).exists()


def test_a_space_installs_the_dependencies_that_the_package_declares():
    lines = (SPACE / "requirements.txt").read_text().splitlines()
    named = {line for line in lines if not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert named == {*project["dependencies"], *project["optional-dependencies"]["page"]}
    assert all(Requirement(line).url is None for line in named)


def test_a_spaces_readme_names_its_file_and_the_version_of_gradio():
    _, front, _ = (SPACE / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert (matter["sdk"], matter["app_file"]) == ("gradio", "app.py")
    locked = (ROOT / "requirements-page.txt").read_text().splitlines()
    assert f"gradio=={matter['sdk_version']}" in locked
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert matter["python_version"] in project["requires-python"]
