import pytest

from dream_o.errors import UserError
from dream_o.page.main import accounts_of, is_loopback, main


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for option in ("--host", "--port", "--no-browser", "--auth", "--mcp"):
        assert option in shown


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--port", "0"], "error: --port 0 is out of range"),
        (["--host", "203.0.113.9"], "error: cannot listen on 203.0.113.9"),
        (["--auth", "ann"], "error: --auth ann: give USER:FILE"),
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
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_which_addresses_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) is loopback
