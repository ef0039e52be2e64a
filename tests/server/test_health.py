"""What the server's /health-check says of a device that is broken."""

import pytest

from tests.server.client import CogServer


@pytest.fixture(scope="module")
def sick(tmp_path_factory, bundle):
    """A server whose device is broken while the file is there, and the file."""
    folder = tmp_path_factory.mktemp("sick-server")
    sickness = folder / "sickness"
    environ = {"DREAM_O_WEIGHTS": str(bundle), "DREAM_O_TEST_SICKNESS": str(sickness)}
    arguments = ("-p", "tests/server/sick_predictor.py:SickPredictor")
    with CogServer(folder, *arguments, environ=environ) as server:
        yield server.ready(), sickness


def health(server) -> dict:
    return server.call("GET", "/health-check").body


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_broken_device_is_unhealthy_and_a_mended_one_ready(sick, how):
    server, sickness = sick
    assert health(server)["status"] == "READY"
    sickness.write_text(how)
    try:
        told = health(server)
        assert told["status"] == "UNHEALTHY"
        assert "healthcheck" in told["user_healthcheck_error"].lower()
    finally:
        sickness.unlink()
    assert server.predict(prompt="a hill")["status"] == "succeeded"
    server.idle()
