"""`script/bench load`: loading a bundle from the disk, compared with reading its files."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.generated_bundle import GIGABYTES, add_size, bundle_of, forget
from benchmarks.hardware import run_today
from benchmarks.measure import folder_bytes, measure
from benchmarks.report import write

TEXT = """# Loading a bundle

A generated bundle with random weights; its files are removed from the page cache before every run.
*read* reads the files one after the other in blocks of 16 MB. *load* is `load_components`, which
reads every file once and checks its SHA-256. *load after fetching* is the same without the
SHA-256, which was computed during the download. Runs alternate; each row is the best run. Seconds
start after the imports.
Made by `script/bench load`."""

LOAD_IMPORTS = """
from dataclasses import replace
from pathlib import Path
import diffusers, transformers
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, T5EncoderModel
from dream_o.weights.format.bundle import read_bundle
from dream_o.weights.format.load import load_components
from dream_o.weights.format.models import model_classes
model_classes()
"""
WAYS = {
    "read": (
        "from pathlib import Path\nfrom benchmarks.generated_bundle import read_all",
        "read_all(Path(folder))",
    ),
    "load": (LOAD_IMPORTS, "load_components(read_bundle(Path(folder)))"),
    "load after fetching": (
        LOAD_IMPORTS,
        "load_components(replace(read_bundle(Path(folder)), verified=True))",
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--gb`."""
    add_size(parser)


def run(output: Path, gb: float = GIGABYTES, repeats: int = 3) -> None:
    """Generates a bundle, loads it in each way and writes the report."""
    with tempfile.TemporaryDirectory() as temporary:
        bundle = bundle_of(gb, Path(temporary) / "bundle")
        size = folder_bytes(bundle)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way, (imports, step) in WAYS.items():
                forget(bundle)
                seconds[way].append(measure(imports, step, folder=str(bundle)).seconds)
    best = {way: min(each) for way, each in seconds.items()}
    rows = [
        {
            "way": way,
            "GB": round(size / 1e9, 2),
            "seconds": round(spent, 2),
            "MB/s": round(size / 1e6 / spent, 1),
        }
        for way, spent in best.items()
    ]
    facts = {
        "bytes of the bundle": size,
        "load against read": round(best["read"] / best["load"], 2),
        "load after fetching against read": round(best["read"] / best["load after fetching"], 2),
    } | run_today(f"load --gb {gb:g}")
    write(output, "load", TEXT, rows, "MB/s", facts)
