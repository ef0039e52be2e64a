"""Downloads from a local hub: complete, resumed, verified, or refused with one sentence."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dream_o.cli.weights import main
from dream_o.errors import BundleError
from dream_o.weights.fetch.download import differing, download, installed
from dream_o.weights.fetch.hub import STAGING
from dream_o.weights.fetch.manifest import choose, read_lock, read_manifest
from dream_o.weights.format.disk import SPARE
from tests.weights.conftest import BASE, CONFIG, TURBO
from tests.weights.disk_refusals import DISK_REFUSALS
from tests.weights.hub_server import COMMIT, Hub


def fetch(folder: Path, *names: str) -> None:
    """Downloads sets by name."""
    download(folder, choose(read_manifest(folder / "manifest.toml"), list(names)))


def refusal(folder: Path, *names: str) -> str:
    """The message with which a download fails; checks that no file was installed."""
    with pytest.raises(BundleError) as raised:
        fetch(folder, *names)
    assert not (folder / "base/part/model.safetensors").exists()
    assert "\n" not in str(raised.value)
    assert "mine" not in str(raised.value)
    return str(raised.value)


def test_downloaded_files_are_in_their_places_and_in_the_lock(hub: Hub, folder: Path) -> None:
    fetch(folder, "base", "turbo")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]
    assert (folder / "adapters/turbo.safetensors").read_bytes() == hub.files[TURBO]
    lock = read_lock(folder)
    assert lock.keys() == {
        "base/config.json",
        "base/part/model.safetensors",
        "adapters/turbo.safetensors",
    }
    assert lock["base/part/model.safetensors"].commit == COMMIT
    assert lock["base/part/model.safetensors"].bytes == 12_000_000
    assert [path.name for path in (folder / STAGING).iterdir()] == ["download.lock"]


def test_optional_sets_are_downloaded_only_if_named(hub: Hub, folder: Path) -> None:
    fetch(folder)
    assert not (folder / "adapters").exists()


def test_files_that_exist_are_not_downloaded_again(hub: Hub, folder: Path) -> None:
    fetch(folder, "base")
    hub.requests.clear()
    fetch(folder, "base")
    assert not hub.requests


def test_a_broken_connection_continues_where_it_stopped(hub: Hub, folder: Path) -> None:
    hub.cut = [11_000_000]
    fetch(folder, "base")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]
    (asked,) = hub.ranges
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 0


def test_the_next_run_continues_a_failed_one(hub: Hub, folder: Path) -> None:
    hub.cut = [11_000_000, *[0] * 20]
    assert "run it again" in refusal(folder, "base")
    hub.cut.clear()
    hub.ranges.clear()
    fetch(folder, "base")
    assert hub.ranges
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]


def test_a_wrong_digest_is_refused_and_the_next_run_succeeds(hub: Hub, folder: Path) -> None:
    hub.wrong = {BASE}
    message = refusal(folder, "base")
    assert message.startswith("part/model.safetensors of maker/base is not the file")
    hub.wrong = set()
    fetch(folder, "base")
    assert differing(folder, read_manifest(folder / "manifest.toml").values())[-1:] == [
        "adapters/turbo.safetensors: missing"
    ]


def test_a_small_file_must_have_the_sha1_that_the_hub_states(hub: Hub, folder: Path) -> None:
    hub.wrong = {CONFIG}
    message = refusal(folder, "base")
    assert message.startswith(
        "config.json of maker/base does not have the SHA-1 that the hub stated"
    )
    assert not read_lock(folder)
    hub.wrong = set()
    fetch(folder, "base")
    assert (folder / "base/config.json").read_bytes() == b"{}"


def test_a_file_that_changed_on_the_hub_since_the_lock_is_refused(hub: Hub, folder: Path) -> None:
    fetch(folder, "turbo")
    (folder / "adapters/turbo.safetensors").unlink()
    hub.files[TURBO] = b"another"
    with pytest.raises(BundleError, match="not the file that was expected"):
        fetch(folder, "turbo")
    assert not (folder / "adapters/turbo.safetensors").exists()


@pytest.mark.parametrize(
    ("refusing", "message"),
    [
        ((401, "GatedRepo"), "maker/base is gated: accept its licence at {url}/maker/base"),
        ((403, "GatedRepo"), "maker/base is gated: accept its licence at {url}/maker/base"),
        ((401, ""), "needs a login: set HF_TOKEN"),
        ((403, ""), "accept the licence at {url}/maker/base"),
        ((404, "RepoNotFound"), "maker/base was not found at {url}"),
        ((404, "RevisionNotFound"), "maker/base has no revision 'main'"),
        ((404, "EntryNotFound"), "maker/base has no file config.json at 'main'"),
        ((503, ""), "the server answered 503; try again later"),
    ],
)
def test_an_error_says_what_to_do(
    hub: Hub, folder: Path, refusing: tuple[int, str], message: str
) -> None:
    hub.refusal = refusing
    assert message.format(url=hub.url) in refusal(folder, "base")


def test_the_token_is_sent_and_needed(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "mine"
    monkeypatch.setenv("HF_TOKEN", "expired")
    assert "set HF_TOKEN to a token of that account" in refusal(folder, "base")
    monkeypatch.setenv("HF_TOKEN", "mine")
    fetch(folder, "base")
    assert (folder / "base/config.json").exists()


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: "http://127.0.0.1:1")
    message = refusal(folder, "base")
    assert "no connection to http://127.0.0.1:1; check the network, or set HF_ENDPOINT" in message


def test_disk_space_is_checked_before_the_first_byte(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dream_o.weights.format.disk.shutil.disk_usage",
        lambda _: type("Usage", (), {"free": 5_000_000}),
    )
    message = refusal(folder, "base")
    assert message == (
        "not enough disk space: 12 MB to download, 5 MB free, of which 268 MB stay free; "
        "nothing was downloaded"
    )
    assert not [path for method, path in hub.requests if method == "GET"]


def test_bytes_of_an_earlier_run_need_no_more_disk_space(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = [11_000_000, *[0] * 20]
    refusal(folder, "base")
    hub.cut.clear()
    # Both files of the set are downloaded at once; either can be cut.
    parts = list((folder / STAGING).rglob("*.part"))
    places = {"base/config.json": CONFIG, "base/part/model.safetensors": BASE}
    wanted = sum(len(hub.files[name]) for at, name in places.items() if not (folder / at).exists())
    left = wanted - sum(part.stat().st_size for part in parts)
    assert 0 < left < 12_000_000
    usage = type("Usage", (), {"free": SPARE + left})
    monkeypatch.setattr("dream_o.weights.format.disk.shutil.disk_usage", lambda _: usage)
    fetch(folder, "base")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]


LIMITED = """
import resource, sys
from pathlib import Path
from dream_o.cli.weights import main

resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
sys.exit(main(["--folder", sys.argv[1], "download", "base"]))
"""


def run(hub: Hub, code: str, *arguments: str) -> subprocess.Popen:
    """Runs a program that uses the hub in another process."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_fills_up_during_the_download(hub: Hub, folder: Path) -> None:
    limited = run(hub, LIMITED, str(folder))
    _, err = limited.communicate()
    assert limited.returncode == 1
    assert err.splitlines()[-1] == (
        "error: the file is larger than this machine allows: "
        "part/model.safetensors of maker/base was not finished; "
        "make room and run it again"
    )
    assert not (folder / "base/part/model.safetensors").exists()
    fetch(folder, "base")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]


DOWNLOAD = """
import sys
from dream_o.cli.weights import main

sys.exit(main(["--folder", sys.argv[1], "download", "base", "turbo"]))
"""


def test_two_processes_at_once_download_each_file_once(hub: Hub, folder: Path) -> None:
    hub.hold = threading.Event()
    processes = [run(hub, DOWNLOAD, str(folder)) for _ in range(2)]
    assert hub.started.wait(60)
    hub.hold.set()
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert {hub.requests["GET", name] for name in hub.files} == {1}
    assert not differing(folder, read_manifest(folder / "manifest.toml").values())


@pytest.mark.parametrize(("code", "words"), DISK_REFUSALS)
def test_a_disk_error_is_one_sentence(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code), str(folder / "somewhere"))

    with monkeypatch.context() as patched:
        patched.setattr("dream_o.weights.fetch.part.os.fsync", refuse)
        message = refusal(folder, "base")
    assert words in message
    assert str(folder) not in message
    fetch(folder, "base")


def test_an_invalid_token_is_refused_without_repeating_it(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine\u2026")
    assert refusal(folder, "base").startswith("HF_TOKEN contains characters that no token has")


def test_offline_mode_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal(folder, "base").endswith("HF_HUB_OFFLINE is set; unset it")


@pytest.mark.parametrize("address", ["mirror", "ftp://mirror", "https://me:mine@mirror", "http://"])
def test_an_endpoint_that_is_not_an_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    assert refusal(folder, "base").startswith("HF_ENDPOINT is not an address such as https://")


@pytest.mark.parametrize("half", [CONFIG, BASE, TURBO])
def test_the_next_run_completes_a_killed_download(hub: Hub, folder: Path, half: str) -> None:
    hub.hold, hub.held = threading.Event(), half
    process = run(hub, DOWNLOAD, str(folder))
    wait_for(lambda: hub.requests["GET", half] and hub.started.is_set())
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.hold.set()
    sets = read_manifest(folder / "manifest.toml").values()
    assert not all(installed(folder, each) for each in sets)
    fetch(folder, "base", "turbo")
    assert not differing(folder, sets)


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until a condition holds."""
    moment = threading.Event()
    for _ in range(3000):
        if condition():
            return
        moment.wait(0.02)
    raise AssertionError("it never came to that")


def test_verify_names_each_file_that_differs(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    fetch(folder, "base", "turbo")
    assert main(["--folder", str(folder), "verify"]) == 0
    capsys.readouterr()
    content = bytearray(hub.files[TURBO])
    content[500] ^= 1
    (folder / "adapters/turbo.safetensors").write_bytes(content)
    (folder / "base/config.json").unlink()
    assert main(["--folder", str(folder), "verify"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "base/config.json: missing",
        "adapters/turbo.safetensors: its SHA-256 is not the one in manifest.lock",
        "run `dream-o weights download` to fetch them again",
        "2 files differ",
    ]
    fetch(folder, "base", "turbo")  # the damaged one too, though its size is right
    assert (folder / "adapters/turbo.safetensors").read_bytes() == hub.files[TURBO]
    assert main(["--folder", str(folder), "verify"]) == 0


def test_list_says_what_is_installed(hub: Hub, folder: Path, capsys: pytest.CaptureFixture) -> None:
    fetch(folder, "turbo")
    assert main(["--folder", str(folder), "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["base", "not", "installed", "2", "files", "0.0", "GB"]
    assert "maker/base@main, gated, Open" in lines[2]
    assert lines[3].split()[:2] == ["turbo", "installed"]


def test_the_error_for_an_unknown_name_lists_the_known_ones(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--folder", str(folder), "download", "flux"]) == 1
    assert capsys.readouterr().err == ("error: 'flux' is not in the manifest; use base, turbo\n")


def test_the_project_s_manifest_covers_the_recipes() -> None:
    from dream_o.weights.build.recipe import RECIPES
    from tests import ROOT

    manifest = read_manifest(ROOT / "weights/manifest.toml")
    local = {file.local for each in manifest.values() for file in each.files}
    adapters = {f"adapters/{step.file}" for steps in RECIPES.values() for step in steps}
    assert adapters <= local
    assert all(each.licence and each.repository for each in manifest.values())
    assert manifest["flux-dev"].gated
