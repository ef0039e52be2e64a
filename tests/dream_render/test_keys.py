"""Developer keys: which pass, and how they are compared."""

import hmac
import io
import logging
from pathlib import Path

import pytest

from dream_o.cli.render import main
from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.keys import check_dev_key, check_key_hash, hash_key
from dream_o.errors import InputError, SettingError, UserError
from dream_o.service.settings import Settings

ACCEPTED = ("first-key", "second-key")


@pytest.mark.parametrize("key", ACCEPTED)
def test_an_accepted_key_passes(key: str) -> None:
    check_dev_key(key, ACCEPTED)


@pytest.mark.parametrize(
    "key",
    ["", "first-ke", "first-key ", "FIRST-KEY", "first-key,second-key", "schlüssel", "\ud800"],
)
def test_any_other_is_not_recognised_and_not_repeated(key: str) -> None:
    with pytest.raises(InputError) as error:
        check_dev_key(key, ACCEPTED)
    assert str(error.value) == "dev_key: not recognised"


def test_keys_beyond_ascii_are_compared() -> None:
    check_dev_key("schlüssel", ("schlüssel",))


def test_without_accepted_keys_every_one_is_refused_with_what_to_set() -> None:
    for key in ("", "first-key"):
        with pytest.raises(InputError, match=r"^dev_key: .*DREAM_RENDER_DEV_KEYS"):
            check_dev_key(key, ())


class WatchedBytes(bytes):
    """Bytes that a comparison which ends at the first difference cannot be made with."""

    def __eq__(self, other: object) -> bool:
        pytest.fail("the comparison's time depends on the key")

    def __hash__(self) -> int:
        pytest.fail("the look-up's time depends on the key")


class WatchedKey(str):
    """An accepted key that counts how often it is read."""

    reads = 0

    def __eq__(self, other: object) -> bool:
        pytest.fail("the comparison's time depends on the key")

    def __hash__(self) -> int:
        pytest.fail("the look-up's time depends on the key")

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        self.reads += 1
        return WatchedBytes(super().encode(encoding, errors))


@pytest.mark.parametrize(("key", "passes"), [*((each, True) for each in ACCEPTED), ("no", False)])
def test_every_accepted_key_is_read_in_full_whichever_is_right(key: str, passes: bool) -> None:
    accepted = [WatchedKey(each) for each in ACCEPTED]
    try:
        check_dev_key(key, accepted)
    except InputError:
        assert not passes
    else:
        assert passes
    assert [each.reads for each in accepted] == [1, 1]


def test_a_key_passes_by_its_hash_and_another_does_not() -> None:
    hashes = (hash_key("first-key"), hash_key("schlüssel"))
    check_dev_key("first-key", (), hashes)
    check_dev_key("schlüssel", (), hashes)
    check_dev_key("plain-key", ("plain-key",), hashes)
    for key in ("first-ke", "", hashes[0]):
        with pytest.raises(InputError, match=r"^dev_key: not recognised$"):
            check_dev_key(key, (), hashes)


def test_hashes_are_salted_slow_and_fit_a_dockerfile() -> None:
    first, second = hash_key("first-key"), hash_key("first-key")
    assert first != second
    assert "first-key" not in first
    assert not set("$, \"'") & set(first)
    assert first.startswith("scrypt:16384:8:1:")
    check_key_hash(first)
    with pytest.raises(UserError) as error:
        check_key_hash("my-own-key")
    assert "my-own-key" not in str(error.value)


def test_every_hash_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = hmac.compare_digest
    hashes = (hash_key("first-key"), hash_key("second-key"))
    monkeypatch.setattr(
        hmac, "compare_digest", lambda *pair: compared.append(pair) or original(*pair)
    )
    check_dev_key("first-key", (), hashes)
    assert [right.hex() for _, right in compared] == [each.split(":")[-1] for each in hashes]


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("second-key\n\n third-key \n")
    settings = Settings.from_environ(
        {"DREAM_RENDER_DEV_KEYS": "first-key", "DREAM_RENDER_DEV_KEYS_FILE": str(file)}
    )
    assert settings.dev_keys == ("first-key", "second-key", "third-key")
    assert "second-key" not in repr(settings)


@pytest.mark.parametrize("content", [None, "", "\n \n", b"\xff"])
def test_a_key_file_that_is_none_is_an_error_at_setup(
    tmp_path: Path, content: str | bytes | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingError, match=r"^DREAM_RENDER_DEV_KEYS_FILE=.*one key per line"):
        Settings.from_environ({"DREAM_RENDER_DEV_KEYS_FILE": str(file)})


def test_a_hash_that_is_none_is_an_error_at_setup_that_does_not_repeat_it() -> None:
    hashed = hash_key("first-key")
    settings = Settings.from_environ({"DREAM_RENDER_DEV_KEY_HASHES": f"{hashed}, {hashed}"})
    assert settings.dev_key_hashes == (hashed, hashed)
    with pytest.raises(SettingError, match=r"^DREAM_RENDER_DEV_KEY_HASHES=.*hash-key") as error:
        Settings.from_environ({"DREAM_RENDER_DEV_KEY_HASHES": f"{hashed},my-own-key"})
    assert "my-own-key" not in str(error.value)


def test_the_command_makes_a_hash_of_what_it_reads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("first-key\n"))
    assert main(["hash-key"]) == 0
    check_dev_key("first-key", (), (capsys.readouterr().out.strip(),))
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["hash-key"]) == 1
    assert capsys.readouterr().err.startswith("error: the key is empty")


@pytest.mark.parametrize(("key", "warned"), [("x" * 19, True), ("x" * 20, False)])
def test_setup_warns_of_a_key_that_could_be_guessed(
    key: str, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    DreamRender.load(Settings(device="cpu", dev_keys=(key,)))
    assert ("could be guessed" in caplog.text) == warned
    assert key not in caplog.text
