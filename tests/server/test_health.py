"""What the server's /health-check says of a device that is broken, and how the server ends."""

import os
import signal

import pytest

from tests.server.client import until
from tests.server.test_serve import alive


def health(server) -> dict:
    return server.call("GET", "/health-check").body


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_broken_device_is_unhealthy_and_a_mended_one_ready(uploading_server, sickness, how):
    server = uploading_server
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


# The last test of this server, because it ends it; test_bucket.py has the others.
# Its worker does not end. Cog kills such a worker after ten seconds.
def test_ctrl_c_ends_the_server_without_a_traceback_and_leaves_no_folder(
    uploading_server, sickness
):
    server = uploading_server
    sickness.write_text("does not end")
    assert list(server.temporary.glob("dream-o-*"))
    worker = server.worker()
    before = len(server.log.read_text())
    # A terminal sends the signal to all processes in the foreground.
    for pid in (server.process.pid, worker):
        os.kill(pid, signal.SIGINT)
    assert server.process.wait() == 0
    until(lambda: not alive(worker), "the worker to end")
    assert "Traceback" not in server.log.read_text()[before:]
    assert list(server.temporary.glob("dream-o-*")) == []
