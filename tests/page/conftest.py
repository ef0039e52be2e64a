import time
from dataclasses import replace

import pytest
from PIL import Image

from dream_o.dream_render.generator import DreamRender
from dream_o.page.desk import Desk
from dream_o.page.outputs import Outputs
from dream_o.page.runs import Runs
from dream_o.server.metrics import Metrics
from dream_o.service.generator import DreamO
from dream_o.service.result import Result
from dream_o.service.settings import Settings
from tests.page.served import KEY, Served

SETTINGS = Settings(device="cpu", dev_keys=(KEY,))


@pytest.fixture(scope="session")
def dream_o(fused) -> DreamO:
    """The bundle of the published cases."""
    dream_o = DreamO.load(SETTINGS, fused("v1.1", True))
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.fixture(scope="session")
def loaded(dream_o, tmp_path_factory) -> Desk:
    """The models of all desks."""
    return Desk.of(dream_o, DreamRender.load(SETTINGS), tmp_path_factory.mktemp("outputs"))


@pytest.fixture
def desk(loaded, tmp_path) -> Desk:
    outputs = Outputs(tmp_path / "outputs")
    return replace(loaded, outputs=outputs, runs=Runs(), metrics=Metrics("page"))


@pytest.fixture
def hill(tmp_path):
    path = tmp_path / "hill.png"
    Image.linear_gradient("L").resize((120, 90)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def page(loaded):
    """One page for all tests of a file."""
    with Served(loaded) as served:
        yield served


@pytest.fixture
def drawn(page, monkeypatch):
    """Requests are answered at once; the list tells how many are answered at a time."""
    active, most = [], []

    def generate(request, on_step=None):
        active.append(request)
        most.append(len(active))
        time.sleep(0.01)
        active.remove(request)
        image = Image.new("RGB", (request.width, request.height), "teal")
        return Result(image, {"prompt": request.prompt, "seed": request.seed}, {"steps": 8})

    monkeypatch.setattr(page.desk.dream_o, "generate", generate)
    return most
