import pytest
from PIL import Image

from dream_o.dream_render.generator import DreamRender
from dream_o.page.desk import Desk
from dream_o.service.generator import DreamO
from dream_o.service.settings import Settings
from tests.page.served import KEY

SETTINGS = Settings(device="cpu", dev_keys=(KEY,))


@pytest.fixture(scope="session")
def dream_o(fused) -> DreamO:
    """The bundle of the published cases."""
    dream_o = DreamO.load(SETTINGS, fused("v1.1", True))
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.fixture
def desk(dream_o, tmp_path) -> Desk:
    return Desk.of(dream_o, DreamRender.load(SETTINGS), tmp_path / "outputs")


@pytest.fixture
def hill(tmp_path):
    path = tmp_path / "hill.png"
    Image.linear_gradient("L").resize((120, 90)).convert("RGB").save(path)
    return path
