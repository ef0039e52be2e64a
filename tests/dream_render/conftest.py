"""A loaded DreamRender on the embedded models, and small requests to it."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from dream_o.dream_render.enhancer import Enhancer
from dream_o.dream_render.form_api import create_app
from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.registry import read_registry
from dream_o.dream_render.request import RenderRequest
from dream_o.service.settings import Settings
from tests.dream_render.form_server import DOCUMENT, Cog, serving

KEY = "a-key-of-the-tests"


def small(**changes: Any) -> RenderRequest:
    """A request that takes a fraction of a second: 64 x 64 pixels, 2 steps."""
    inputs: dict[str, Any] = {
        "model": "miniature",
        "prompt": "shoe",
        "width": 64,
        "height": 64,
        "seed": 7,
        "steps": 2,
    }
    return RenderRequest(**(inputs | changes))


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more by sharing their work among threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dream_render() -> DreamRender:
    return DreamRender.load(Settings(device="cpu", dev_keys=("another-key", KEY)))


@pytest.fixture(scope="session")
def enhancer() -> Enhancer:
    return Enhancer.load(read_registry().prompt_models["embedded"], torch.device("cpu"))


@pytest.fixture
def cog() -> Cog:
    return Cog()


@pytest.fixture
def client(cog: Cog) -> Iterator[httpx.Client]:
    app = create_app("http://cog", DOCUMENT, transport=httpx.MockTransport(cog))
    with serving(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client
