import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from dream_o import locked_folders
from dream_o.errors import UserError
from dream_o.page.main import accounts_of, main, own_host
from tests import ROOT


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for option in ("--host", "--port", "--no-browser", "--auth", "--mcp", "--origin"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--port", "0"], "error: --port 0 is out of range"),
        (["--host", "203.0.113.9"], "error: cannot listen on 203.0.113.9"),
        (["--auth", "ann"], "error: --auth ann: give USER:FILE"),
        (["--auth", "ann:password", "--mcp"], "error: --mcp: agents cannot log in"),
        (["--origin", "dream.example"], "error: --origin dream.example: give the address"),
        (["--what"], "error: unrecognized arguments: --what"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(arguments, problem, capsys):
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(problem)
    assert shown.count("\n") == 1


def test_a_bad_setting_is_told_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setenv("DREAM_O_SPEED", "warp")
    assert main(["--no-browser"]) == 1
    assert capsys.readouterr().err.startswith("error: DREAM_O_SPEED='warp'")


def test_a_password_is_the_first_line_of_a_users_file(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("sesame\nand more\n")
    assert accounts_of([f"ann:{secret}", f"bob:{secret}"]) == {"ann": "sesame", "bob": "sesame"}
    secret.write_text("\n")
    with pytest.raises(UserError, match="no password in its first line"):
        accounts_of([f"ann:{secret}"])
    with pytest.raises(UserError, match="the file cannot be read"):
        accounts_of([f"ann:{tmp_path / 'missing'}"])


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("fd00::7", "[fd00::7]"),
        ("box", "box"),
    ],
)
def test_the_address_that_the_command_prints_can_be_opened(host, own):
    assert own_host(host) == own


def test_ctrl_c_ends_the_page_with_status_0(monkeypatch):
    monkeypatch.setattr("dream_o.page.main.serve", lambda _: signal.raise_signal(signal.SIGINT))
    assert main([]) == 0


def test_the_command_serves_until_sigterm_and_leaves_no_upload(tmp_path, hill, quick_bundle):
    killed = tmp_path / f"dream-o-page-{locked_folders.MACHINE}-0123456789ab"
    killed.mkdir()
    (killed / "upload.png").write_bytes(b"x")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "DREAM_O_WEIGHTS": str(quick_bundle),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "dream_o", "page", "--no-browser", "--port", port]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*map(str, command)], env=environ, stderr=log, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while "Serving the page" not in (tmp_path / "log").read_text():
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as http:
            assert "DreamO" in http.get(url).text
            files = {"files": ("hill.png", hill.read_bytes())}
            uploaded = Path(http.post(f"{url}/gradio_api/upload", files=files).json()[0])
        assert uploaded.read_bytes() == hill.read_bytes()
    finally:
        server.terminate()
        assert server.wait(30) == 0
    assert not uploaded.exists()
    assert list(tmp_path.glob("dream-o-page-*")) == []
    assert "Traceback" not in (tmp_path / "log").read_text()
