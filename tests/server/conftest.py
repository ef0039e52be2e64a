from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.client import CogServer, Receiver


@pytest.fixture(scope="session")
def bundle(quick_bundle: Path) -> Path:
    """The fastest bundle: these tests ask what the server does, not what the model draws."""
    return quick_bundle


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[CogServer]:
    """The real server with the real predictor."""
    environ = {"DREAM_O_WEIGHTS": str(bundle)}
    with CogServer(tmp_path_factory.mktemp("server"), environ=environ) as server:
        yield server.ready()


@pytest.fixture(scope="session")
def bucket() -> Iterator[Receiver]:
    """Where the uploading server puts its outputs."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def sickness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file exists, the device of `uploading_server` is broken."""
    return tmp_path_factory.mktemp("sick") / "sickness"


@pytest.fixture(scope="session")
def uploading_server(
    tmp_path_factory: pytest.TempPathFactory,
    bucket: Receiver,
    sickness: Path,
    fused: Callable[[str, bool], Path],
) -> Iterator[CogServer]:
    """A second server, for what the first one is not started with.

    It has --upload-url, the bundle of the published cases, and a device that can break.
    tests/server/test_health.py ends it.
    """
    folder = tmp_path_factory.mktemp("uploading-server")
    arguments = ("-p", "tests/server/sick_predictor.py:SickPredictor")
    arguments += ("--upload-url", f"{bucket.url}/outputs/")
    environ = {
        "DREAM_O_WEIGHTS": str(fused("v1.1", True)),
        "DREAM_O_TEST_SICKNESS": str(sickness),
    }
    with CogServer(folder, *arguments, environ=environ) as server:
        yield server.ready()


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
