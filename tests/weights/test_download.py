"""Downloads from a hub on this machine: whole, resumed, verified, or refused with one sentence."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dream_o.errors import BundleError
from dream_o.weights.__main__ import main
from dream_o.weights.bundle import check_file, read_bundle
from dream_o.weights.disk import SPARE
from dream_o.weights.download import differing, download, fetch_bundle, installed
from dream_o.weights.hub import STAGING, parse_reference
from dream_o.weights.manifest import choose, read_lock, read_manifest
from tests.weights.hub_server import COMMIT, Hub, serving

MANIFEST = """
[base]
title = "a base model"
repository = "maker/base"
revision = "main"
licence = "Open"
gated = true
folder = "base"
files = [{ path = "config.json" }, { path = "part/model.safetensors", size = 400000 }]

[turbo]
title = "an adapter"
repository = "other/turbo"
revision = "main"
licence = "Open"
optional = true
folder = "adapters"
files = [{ path = "model.safetensors", to = "turbo.safetensors" }]
"""
CONFIG, BASE = "maker/base/config.json", "maker/base/part/model.safetensors"
TURBO = "other/turbo/model.safetensors"


def contents() -> dict[str, bytes]:
    """The hub's files; the large one is longer than one of its client's blocks."""
    rng = random.Random(0)
    return {CONFIG: b"{}", BASE: rng.randbytes(12_000_000), TURBO: rng.randbytes(1000)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that huggingface_hub's client asks."""
    from huggingface_hub import file_download

    with serving(Hub(contents())) as running:
        monkeypatch.setattr("dream_o.weights.hub.endpoint", lambda: running.url)
        monkeypatch.setattr(file_download.time, "sleep", lambda _: None)  # no waits in retries
        monkeypatch.setenv("HF_TOKEN", "mine")
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weights folder with nothing but the manifest."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/manifest.toml").write_text(MANIFEST)
    return tmp_path / "weights"


def fetch(folder: Path, *names: str) -> None:
    """Downloads sets by name."""
    download(folder, choose(read_manifest(folder / "manifest.toml"), list(names)))


def refusal(folder: Path, *names: str) -> str:
    """What a download says, which leaves no file in its place."""
    with pytest.raises(BundleError) as raised:
        fetch(folder, *names)
    assert not (folder / "base/part/model.safetensors").exists()
    assert "\n" not in str(raised.value)
    assert "mine" not in str(raised.value)
    return str(raised.value)


def test_files_come_to_their_places_and_into_the_lock(hub: Hub, folder: Path) -> None:
    fetch(folder, "base", "turbo")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]
    assert (folder / "adapters/turbo.safetensors").read_bytes() == hub.files[TURBO]
    lock = read_lock(folder)
    assert lock.keys() == {
        "base/config.json", "base/part/model.safetensors", "adapters/turbo.safetensors"
    }  # fmt: skip
    assert lock["base/part/model.safetensors"].commit == COMMIT
    assert lock["base/part/model.safetensors"].bytes == 12_000_000
    assert [path.name for path in (folder / STAGING).iterdir()] == ["download.lock"]


def test_optional_sets_come_only_when_named(hub: Hub, folder: Path) -> None:
    fetch(folder)
    assert not (folder / "adapters").exists()


def test_what_is_here_is_not_fetched_again(hub: Hub, folder: Path) -> None:
    fetch(folder, "base")
    hub.requests.clear()
    fetch(folder, "base")
    assert not hub.requests


def test_a_cut_connection_is_continued_where_it_broke(hub: Hub, folder: Path) -> None:
    hub.cut = [11_000_000]
    fetch(folder, "base")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]
    (asked,) = hub.ranges
    assert int(asked.removeprefix("bytes=").removesuffix("-")) > 0


def test_the_next_run_continues_one_that_gave_up(hub: Hub, folder: Path) -> None:
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


def test_a_small_file_is_held_to_the_sha1_that_the_hub_announces(hub: Hub, folder: Path) -> None:
    hub.wrong = {CONFIG}
    message = refusal(folder, "base")
    assert message.startswith("config.json of maker/base is not the file that the hub announced")
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
def test_a_refusal_says_what_to_do(
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
    monkeypatch.setattr("dream_o.weights.hub.endpoint", lambda: "http://127.0.0.1:1")
    message = refusal(folder, "base")
    assert "no connection to http://127.0.0.1:1; check the network, or set HF_ENDPOINT" in message


def test_the_disk_is_looked_at_before_the_first_byte(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dream_o.weights.disk.shutil.disk_usage", lambda _: type("Usage", (), {"free": 5_000_000})
    )
    message = refusal(folder, "base")
    assert message == (
        "not enough disk space: 12 MB to download, 5 MB free, of which 268 MB stay free; "
        "nothing was downloaded"
    )
    assert not [path for method, path in hub.requests if method == "GET"]


def test_what_an_earlier_run_left_needs_no_room_again(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = [11_000_000, *[0] * 20]
    refusal(folder, "base")
    hub.cut.clear()
    (part,) = (folder / STAGING).rglob("*.part")
    left = 12_000_000 - part.stat().st_size
    assert 0 < left < 12_000_000
    usage = type("Usage", (), {"free": SPARE + left})
    monkeypatch.setattr("dream_o.weights.disk.shutil.disk_usage", lambda _: usage)
    fetch(folder, "base")
    assert (folder / "base/part/model.safetensors").read_bytes() == hub.files[BASE]


LIMITED = """
import resource, sys
from pathlib import Path
from dream_o.weights.__main__ import main

resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, resource.RLIM_INFINITY))
sys.exit(main(["--folder", sys.argv[1], "download", "base"]))
"""


def run(hub: Hub, code: str, *arguments: str) -> subprocess.Popen:
    """A process of its own that asks the hub."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_disk_that_fills_up_on_the_way(hub: Hub, folder: Path) -> None:
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
from dream_o.weights.__main__ import main

sys.exit(main(["--folder", sys.argv[1], "download", "base", "turbo"]))
"""


def test_two_processes_at_once_fetch_each_file_once(hub: Hub, folder: Path) -> None:
    hub.hold = threading.Event()
    processes = [run(hub, DOWNLOAD, str(folder)) for _ in range(2)]
    assert hub.started.wait(60)
    hub.hold.set()
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert {hub.requests["GET", name] for name in hub.files} == {1}
    assert not differing(folder, read_manifest(folder / "manifest.toml").values())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "there is no permission for it"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_disk_refuses_is_one_sentence(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code), str(folder / "somewhere"))

    with monkeypatch.context() as patched:
        patched.setattr("dream_o.weights.hub.os.fsync", refuse)
        message = refusal(folder, "base")
    assert words in message
    assert str(folder) not in message
    fetch(folder, "base")


def test_a_token_that_is_none_is_refused_without_repeating_it(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "mine\u2026")
    assert refusal(folder, "base").startswith("HF_TOKEN holds characters that no token has")


def test_offline_mode_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refusal(folder, "base").endswith("HF_HUB_OFFLINE is set; unset it")


@pytest.mark.parametrize("address", ["mirror", "ftp://mirror", "https://me:mine@mirror", "http://"])
def test_an_endpoint_that_is_no_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    assert refusal(folder, "base").startswith("HF_ENDPOINT is not an address such as https://")


@pytest.mark.parametrize("half", [CONFIG, BASE, TURBO])
def test_a_killed_download_is_completed_by_the_next(hub: Hub, folder: Path, half: str) -> None:
    order = [CONFIG, BASE, TURBO]
    hub.hold = threading.Event()
    process = run(hub, DOWNLOAD, str(folder))
    for name in order[: order.index(half)]:
        wait_for(lambda name=name: hub.requests["GET", name] and hub.started.is_set())
        hub.started.clear()
        hub.hold.set()
        wait_for(lambda name=name: hub.requests["GET", order[order.index(name) + 1]])
        hub.hold.clear()
    wait_for(lambda: hub.requests["GET", half] and hub.started.is_set())
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.hold.set()
    sets = read_manifest(folder / "manifest.toml").values()
    assert not all(installed(folder, each) for each in sets)
    fetch(folder, "base", "turbo")
    assert not differing(folder, sets)


def wait_for(condition: Callable[[], object]) -> None:
    """Returns when the condition holds."""
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
        "python -m dream_o.weights download fetches them again",
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


def test_an_unknown_name_is_refused_with_those_that_exist(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--folder", str(folder), "download", "flux"]) == 1
    assert capsys.readouterr().err == (
        "error: 'flux' is not in the manifest; there are base, turbo\n"
    )


def test_the_project_s_manifest_covers_the_recipes() -> None:
    from dream_o.lora import RECIPES
    from dream_o.settings import ROOT

    manifest = read_manifest(ROOT / "weights/manifest.toml")
    local = {file.local for each in manifest.values() for file in each.files}
    adapters = {f"adapters/{step.file}" for steps in RECIPES.values() for step in steps}
    assert adapters <= local
    assert all(each.licence and each.repository for each in manifest.values())
    assert manifest["flux-dev"].gated


@pytest.mark.parametrize(
    ("reference", "parsed"),
    [
        ("hf://me/dreamo", ("me/dreamo", "main")),
        ("hf://me/dreamo@v2.0", ("me/dreamo", "v2.0")),
    ],
)
def test_references_to_the_hub(reference: str, parsed: tuple[str, str]) -> None:
    assert parse_reference(reference) == parsed


@pytest.mark.parametrize("reference", ["hf://me", "hf://me/a/b", "hf://me/..//x", "hf://me/a@"])
def test_a_reference_that_is_none_is_refused(reference: str) -> None:
    with pytest.raises(BundleError, match="hf://owner/repository"):
        parse_reference(reference)


@pytest.fixture
def bundle_hub(hub: Hub, fused: Callable[[str, bool], Path]) -> Hub:
    """A hub that has a bundle, as a user uploads it."""
    bundle = fused("v1.1", True)
    hub.files |= {
        f"me/dreamo/{path.relative_to(bundle).as_posix()}": path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    hub.files["me/dreamo/README.md"] = b"mine"
    return hub


def test_a_bundle_is_fetched_once(bundle_hub: Hub, folder: Path) -> None:
    from dream_o.weights.bundle import load_components

    bundle = fetch_bundle("hf://me/dreamo", folder)
    assert load_components(bundle)["transformer"] is not None
    bundle_hub.requests.clear()
    assert fetch_bundle("hf://me/dreamo", folder) == bundle
    assert not bundle_hub.requests
    assert {path.name for path in (folder / STAGING).iterdir()} == {"me--dreamo@main.lock"}


@pytest.mark.parametrize("on_web", [False, True], ids=["hub", "web"])
def test_a_bundle_that_changed_since_a_cut_download_comes_whole(
    bundle_hub: Hub, folder: Path, fused: Callable[[str, bool], Path], on_web: bool
) -> None:
    reference = f"{bundle_hub.url}/me/dreamo/resolve/main" if on_web else "hf://me/dreamo"
    name = "transformer/diffusion_pytorch_model.safetensors"
    bundle_hub.wrong = {f"me/dreamo/{name}"}
    with pytest.raises(BundleError, match="not the file that was expected"):
        fetch_bundle(reference, folder)
    assert list((folder / STAGING).rglob("whole/*/*.json"))
    bundle_hub.wrong = set()
    other = fused("v1", True)  # the same sizes, other numbers
    for path in read_bundle(other).files:
        content = (other / path).read_bytes()
        assert len(content) == len(bundle_hub.files[f"me/dreamo/{path}"])
        bundle_hub.files[f"me/dreamo/{path}"] = content
    bundle_hub.files["me/dreamo/bundle.json"] = (other / "bundle.json").read_bytes()
    fetched = fetch_bundle(reference, folder)
    assert read_bundle(fetched).model_version == "v1"
    for path, record in read_bundle(fetched).files.items():
        check_file(fetched, path, record)


def test_a_bundle_that_is_damaged_on_the_hub_is_not_installed(
    bundle_hub: Hub, folder: Path
) -> None:
    name = "me/dreamo/vae/diffusion_pytorch_model.safetensors"
    bundle_hub.wrong = {name}
    with pytest.raises(BundleError, match=r"vae/diffusion_pytorch_model\.safetensors of me/dreamo"):
        fetch_bundle("hf://me/dreamo", folder)
    assert not (folder / "hub").exists()
    bundle_hub.wrong = set()
    assert fetch_bundle("hf://me/dreamo@main", folder).is_dir()


def test_a_bundle_json_that_leads_out_of_the_folder_is_refused(
    bundle_hub: Hub, folder: Path
) -> None:
    raw = json.loads(bundle_hub.files["me/dreamo/bundle.json"])
    raw["files"]["../../escaped"] = {"bytes": 1, "sha256": "0" * 64}
    bundle_hub.files["me/dreamo/bundle.json"] = json.dumps(raw).encode()
    with pytest.raises(BundleError, match="does not belong in a bundle"):
        fetch_bundle("hf://me/dreamo", folder)


def test_a_repository_that_holds_no_bundle(hub: Hub, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"maker/base has no file bundle\.json"):
        fetch_bundle("hf://maker/base", folder)


def test_a_bundle_comes_from_any_web_server(bundle_hub: Hub, folder: Path) -> None:
    bundle = fetch_bundle(f"{bundle_hub.url}/me/dreamo/resolve/main", folder)
    assert read_bundle(bundle).model_version == "v1.1"
    assert fetch_bundle(f"{bundle_hub.url}/me/dreamo/resolve/main/", folder) == bundle


def test_a_url_without_a_bundle(bundle_hub: Hub, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"bundle\.json"):
        fetch_bundle(f"{bundle_hub.url}/maker/base/resolve/main", folder)
