"""`kill -9` at any moment: nothing incomplete is used, and the next run completes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import PARITY
from tests.forked import Forked, run_code
from tests.weights.conftest import MANIFEST, contents
from tests.weights.hub_server import Hub, serving

# Each run to be killed is a fork of this program.
KILLS = """
import logging, os, random, shutil, signal, sys, time
from pathlib import Path

from dream_o.weights.fetch.download import differing, download
from dream_o.weights.fetch.manifest import read_manifest

name, folder, first, second = sys.argv[1], *map(Path, sys.argv[2:])
output = folder / "output"
if name == "download":
    import httpx2, huggingface_hub.file_download
else:
    import torch
    from dream_o.weights.build.fuse import fuse
    from dream_o.weights.build.quantize import kinds, quantize
    from dream_o.weights.format.bundle import check_file, is_bundle, read_bundle

    torch.set_num_threads(1)
    kinds()


def whole(bundle):
    for file, record in read_bundle(bundle).files.items():
        check_file(bundle, file, record)


def fetch():
    download(first, read_manifest(first / "manifest.toml").values())


def fetched_is_right():
    # A file in its place is complete, even if it is not in the lock yet.
    wrong = differing(first, read_manifest(first / "manifest.toml").values())
    assert all(line.endswith((": missing", ": not in manifest.lock")) for line in wrong), wrong


def bundles_are_right():
    # Under its own name the bundle is complete; a folder of any other name is not a bundle.
    for path in folder.iterdir():
        if path == output and is_bundle(path):
            whole(path)
        else:
            assert not is_bundle(path), path.name


run, right, clear = {
    "fuse": (lambda: fuse(first, second, "v1.1", output), bundles_are_right, lambda: None),
    "quantize": (lambda: quantize(first, "int8", output), bundles_are_right, lambda: None),
    "download": (
        fetch,
        fetched_is_right,
        lambda: [shutil.rmtree(path) for path in first.iterdir() if path.is_dir()]
        + [(first / "manifest.lock").unlink(missing_ok=True)],
    ),
}[name]

took = float("inf")  # the fastest run, so that a kill rarely comes after the end
for _ in range(2):
    clear()
    shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    run()
    took = min(took, time.monotonic() - start)
rng = random.Random(name)
killed = 0
for _ in range(6):
    clear()
    shutil.rmtree(output, ignore_errors=True)
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(0)
    time.sleep(rng.uniform(0, took))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    right()
    run()
    right()
    if name == "download":
        assert not differing(first, read_manifest(first / "manifest.toml").values())
    else:
        whole(output)
        assert [path.name for path in folder.iterdir()] == ["output"], list(folder.iterdir())
print(killed)
"""


def kill_six_times(name: str, folder: Path, *sources: Path) -> int:
    """Starts six runs, which the script checks; returns how many were killed before their end."""
    folder.mkdir()
    arguments = [name, str(folder), *map(str, sources)]
    run = Forked(run_code, KILLS, arguments, logs=folder.parent, folder=folder.parent)
    assert run.wait() == 0, run.told[-3000:]
    return int(run.printed.split()[-1])


def test_fuse(tmp_path: Path) -> None:
    sources = (PARITY / "base", PARITY / "adapters")
    assert kill_six_times("fuse", tmp_path / "bundles", *sources) > 3


def test_quantize(tmp_path: Path, fused: Callable[[str, bool], Path]) -> None:
    source = fused("v1.1", True)
    assert kill_six_times("quantize", tmp_path / "bundles", source, source) > 3


def test_download(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "manifest.toml").write_text(MANIFEST)
    with serving(Hub(contents())) as hub:
        # The hub's client reads its address when it is imported, so this is no fork.
        arguments = ["download", str(tmp_path / "unused"), str(weights), str(weights)]
        run = subprocess.run(
            [sys.executable, "-c", KILLS, *arguments],
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.returncode == 0, run.stderr[-3000:]
    assert int(run.stdout.split()[-1]) > 3
