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
def dream_o(quick_bundle) -> DreamO:
    """The bundle for what is around the model."""
    dream_o = DreamO.load(SETTINGS, quick_bundle)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.fixture(scope="session")
def loaded(dream_o, tmp_path_factory) -> Desk:
    """The loaded models, which all tests share."""
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
    """A running page, which all tests of a file share."""
    with Served(loaded) as served:
        yield served


@pytest.fixture
def drawn(page, monkeypatch):
    """Answers requests at once; the list has the numbers of requests that ran at the same time."""
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
