from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.client import CogServer, Receiver


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    """The real server with the real predictor on the embedded bundle."""
    with CogServer(tmp_path_factory.mktemp("server")) as server:
        yield server.ready()


@pytest.fixture(scope="session")
def bucket() -> Iterator[Receiver]:
    """Where the uploading server puts its outputs."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def uploading_server(
    tmp_path_factory: pytest.TempPathFactory, bucket: Receiver, fused: Callable[[str, bool], Path]
) -> Iterator[CogServer]:
    """A second server, with the bundle of the published cases, started with --upload-url."""
    folder = tmp_path_factory.mktemp("uploading-server")
    arguments = ("--upload-url", f"{bucket.url}/outputs/")
    environ = {"DREAM_O_WEIGHTS": str(fused("v1.1", True))}
    with CogServer(folder, *arguments, environ=environ) as server:
        yield server.ready()


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
