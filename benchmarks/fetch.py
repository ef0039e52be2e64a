"""`script/bench fetch`: downloading a bundle, compared with curl and with writing to the disk."""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.generated_bundle import GIGABYTES, add_size, bundle_of, warm
from benchmarks.hardware import run_today
from benchmarks.measure import folder_bytes, measure
from benchmarks.report import write
from benchmarks.served import served
from dream_o.errors import UserError

TEXT = """# Downloading a bundle

A generated bundle with random weights, served on this machine from the page cache. *fetch* is the
setup's download with `DREAM_O_WEIGHTS=https://...`: parallel ranges, a SHA-256 of every file
while it arrives, and a flush to the disk. *curl* downloads the largest file of the bundle over one
connection. *disk* writes as many bytes as the bundle has, in blocks of 16 MB. Every row ends with
fsync. In the rows *100 MB/s a connection* the server limits each connection to this rate, as
servers of large files do.
Made by `script/bench fetch`."""

PER_CONNECTION = 100e6
BLOCK = bytes(16 << 20)
FETCH = """
fetch_bundle(url, folder)
"""
IMPORTS = """
from pathlib import Path
from dream_o.weights.fetch.remote_bundle import fetch_bundle
import httpx2, huggingface_hub.file_download
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--gb`."""
    add_size(parser)


def run(output: Path, gb: float = GIGABYTES) -> None:
    """Generates a bundle, downloads it in each way and writes the report."""
    if shutil.which("curl") is None:
        raise UserError("curl, which the benchmark compares with, is missing; install it")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = bundle_of(gb, folder / "bundle")
        size = folder_bytes(bundle)
        rows = [_row("disk, one file", size, _write(folder / "plain", size))]
        for limit, name in ((0.0, ""), (PER_CONNECTION, ", 100 MB/s a connection")):
            warm(bundle)
            with served(folder, limit) as url:
                rows.append(_curl(f"{url}/bundle", bundle, folder, name))
                seconds = _fetch(f"{url}/bundle", folder / f"weights{limit:.0f}")
                rows.append(_row(f"fetch{name}", size, seconds))
    rates = {row["way"]: float(str(row["MB/s"])) for row in rows}
    fetched, limited = rates["fetch"], rates["fetch, 100 MB/s a connection"]
    facts = {
        "bytes of the bundle": size,
        "fetch against the disk": round(fetched / rates["disk, one file"], 2),
        "fetch against curl": round(fetched / rates["curl"], 2),
        "fetch against curl, 100 MB/s a connection": round(
            limited / rates["curl, 100 MB/s a connection"], 2
        ),
    } | run_today(f"fetch --gb {gb:g}")
    write(output, "fetch", TEXT, rows, "MB/s", facts)


def _row(way: str, size: int, seconds: float) -> dict[str, object]:
    return {
        "way": way,
        "GB": round(size / 1e9, 2),
        "seconds": round(seconds, 2),
        "MB/s": round(size / 1e6 / seconds, 1),
    }


def _write(path: Path, size: int) -> float:
    begun = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(0, size, len(BLOCK)):
            file.write(BLOCK)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    path.unlink()
    return seconds


def _curl(url: str, bundle: Path, folder: Path, name: str) -> dict[str, object]:
    largest = max(
        (path for path in bundle.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    target = folder / "fetched-by-curl"
    address = f"{url}/{largest.relative_to(bundle).as_posix()}"
    begun = time.perf_counter()
    subprocess.run(["curl", "-sf", "-o", str(target), address], check=True)  # noqa: S603, S607
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begun
    target.unlink()
    return _row(f"curl{name}", largest.stat().st_size, seconds)


def _fetch(url: str, weights: Path) -> float:
    seconds = measure(IMPORTS + f"\nfolder = Path({str(weights)!r})", FETCH, url=url).seconds
    shutil.rmtree(weights)
    return seconds
