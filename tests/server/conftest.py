from collections.abc import Iterator

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
    tmp_path_factory: pytest.TempPathFactory, bucket: Receiver
) -> Iterator[CogServer]:
    """A second server process, started with --upload-url."""
    folder = tmp_path_factory.mktemp("uploading-server")
    with CogServer(folder, "--upload-url", f"{bucket.url}/outputs/") as server:
        yield server.ready()


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
