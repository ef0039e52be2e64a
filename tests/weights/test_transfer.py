"""Downloads in many ranges: the bytes are right despite faults of server and network, and kills."""

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dream_o.errors import BundleError
from dream_o.weights.fetch import part
from dream_o.weights.fetch.hub import Found, Question, find
from dream_o.weights.fetch.part import Part
from dream_o.weights.fetch.transfer import Wanted, ask_all, fetch_files
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.digests import FileRecord
from dream_o.weights.format.layout import BUNDLE_FILE
from tests.weights.hub_server import Hub, serving

LARGE, TWIN = "me/model/large.safetensors", "me/model/twin.safetensors"
CONTENT = random.Random(1).randbytes(3_500_000)


@pytest.fixture
def many(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with two equal files of seven chunks each."""
    monkeypatch.setattr(part, "CHUNK", 1 << 19)
    monkeypatch.setattr(part, "RECORDED", 1 << 16)
    hub.files |= {LARGE: CONTENT, TWIN: CONTENT}
    return hub


def fetch(folder: Path, *names: str, expected: FileRecord | None = None) -> list[FileRecord]:
    """Fetches files of me/model into a folder."""

    def ask(path: str) -> Question:
        return lambda: find("me/model", path, "main")

    paths = [name.removeprefix("me/model/") for name in names]
    answers = ask_all(map(ask, paths))
    wanted = [
        Wanted(ask(path), answer, folder / "staging", folder / path, expected)
        for path, answer in zip(paths, answers, strict=True)
    ]
    return fetch_files(wanted, folder)


def test_a_file_is_downloaded_in_ranges_and_hashed_meanwhile(many: Hub, tmp_path: Path) -> None:
    (record,) = fetch(tmp_path, LARGE)
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT
    assert record == FileRecord(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert len(many.ranges) == 7
    assert not list((tmp_path / "staging").iterdir())


def test_equal_files_of_a_repository_do_not_mix(many: Hub, tmp_path: Path) -> None:
    fetch(tmp_path, LARGE, TWIN)
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "twin.safetensors").read_bytes() == CONTENT


def test_broken_connections_are_continued(many: Hub, tmp_path: Path) -> None:
    many.cut = [100_000, 0, 300_000, 70_000, 200_000]
    fetch(tmp_path, LARGE)
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("cut", [[], [1_000_000], [3_000_000, 10]])
def test_a_server_without_ranges_is_read_in_one_request(
    many: Hub, tmp_path: Path, cut: list[int]
) -> None:
    many.without_ranges, many.cut = True, cut
    fetch(tmp_path, LARGE, TWIN)
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT
    assert (tmp_path / "twin.safetensors").read_bytes() == CONTENT


def test_downloaded_bytes_are_not_requested_again(many: Hub, tmp_path: Path) -> None:
    many.cut = [*[60_000] * 7, *[0] * 100]
    with pytest.raises(BundleError, match="run it again to continue"):
        fetch(tmp_path, LARGE)
    (left,) = (tmp_path / "staging").glob("*.part")
    with Part(left, len(CONTENT)) as unfinished:
        held = unfinished.held
    assert held > 0
    many.cut.clear()
    many.ranges.clear()
    fetch(tmp_path, LARGE)
    spans = [each.removeprefix("bytes=").split("-") for each in many.ranges]
    asked = sum(int(last or len(CONTENT) - 1) + 1 - int(first) for first, last in spans)
    assert asked == len(CONTENT) - held
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT


def test_wrong_bytes_are_removed_with_their_journal(many: Hub, tmp_path: Path) -> None:
    many.wrong = {LARGE}
    with pytest.raises(BundleError, match="is not the file that was expected"):
        fetch(tmp_path, LARGE)
    assert not list((tmp_path / "staging").iterdir())
    assert not (tmp_path / "large.safetensors").exists()


def test_a_truncated_part_is_downloaded_again(many: Hub, tmp_path: Path) -> None:
    many.cut = [*[300_000] * 7, *[0] * 100]
    with pytest.raises(BundleError):
        fetch(tmp_path, LARGE)
    (left,) = (tmp_path / "staging").glob("*.part")
    os.truncate(left, 1000)
    many.cut.clear()
    fetch(tmp_path, LARGE)
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT


def test_an_expired_url_is_requested_again(many: Hub, tmp_path: Path) -> None:
    asked = []

    def ask() -> Found:
        asked.append(1)
        return find("me/model", "large.safetensors", "main")

    fresh = ask()
    stale = type(fresh)(**vars(fresh) | {"url": f"{many.url}/stale"})
    many.refused_paths = {"stale": 403}
    fetch_files(
        [Wanted(ask, stale, tmp_path / "staging", tmp_path / "large.safetensors")], tmp_path
    )
    assert (tmp_path / "large.safetensors").read_bytes() == CONTENT
    assert len(asked) > 1


# One process imports everything once; each run to be killed is a fork of it.
KILLS = """
import os, random, signal, sys, time
from pathlib import Path

from dream_o.weights.fetch import part
from dream_o.weights.fetch.remote_bundle import fetch_bundle
import httpx2, huggingface_hub.utils, huggingface_hub.file_download

part.CHUNK, part.RECORDED = 1 << 16, 1 << 13
rng, killed = random.Random(3), 0
for _ in range(10):
    child = os.fork()
    if child == 0:
        try:
            fetch_bundle("hf://me/dreamo", Path(sys.argv[1]))
        finally:
            os._exit(0)
    time.sleep(rng.uniform(0.02, 0.3))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
fetch_bundle("hf://me/dreamo", Path(sys.argv[1]))
print(killed)
"""


def test_a_download_that_is_killed_ten_times_ends_with_the_right_bytes(
    tmp_path: Path, fused: Callable[[str, bool], Path]
) -> None:
    """Kills ten runs at random moments; each run continues where the previous one stopped."""
    bundle = fused("v1.1", True)
    names = [BUNDLE_FILE, *read_bundle(bundle).files]
    files = {f"me/dreamo/{name}": (bundle / name).read_bytes() for name in names}
    with serving(Hub(files, delay=0.1)) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-c", KILLS, str(tmp_path)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) >= 5
    fetched = tmp_path / "hub" / "me--dreamo@main"
    for name, content in files.items():
        assert (fetched / name.removeprefix("me/dreamo/")).read_bytes() == content
