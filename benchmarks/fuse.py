"""`script/bench fuse`: does the memory for fusing and quantizing grow with the model?"""

import tempfile
from pathlib import Path

import torch

from benchmarks.hardware import run_today
from benchmarks.measure import as_row, folder_bytes, measure
from benchmarks.models import Size, generate_adapters, generate_base
from benchmarks.report import Row, write

SIZES = {
    "2 GB": Size(double=6, single=12, t5_layers=12),
    "4 GB": Size(double=14, single=28, t5_layers=20),
}

TEXT = """# Fusing and quantizing: peak memory

`dream-o weights fuse` fuses base models of two sizes with random weights (float32) and all five
adapters of version 1.1, rank 32; `dream-o weights quantize --to int8` quantizes the bundle.
Each runs in its own process. *peak GB* is the largest resident size of the whole process,
including Python and torch.
Made by `script/bench fuse`."""


def run(output: Path) -> None:
    """Generates both models, fuses them and writes the report."""
    rows: list[Row] = []
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            generate_base(folder / "base", size, torch.float32)
            generate_adapters(folder / "adapters", size, torch.float32)
            base, adapters, bundle = (str(folder / part) for part in ("base", "adapters", "bundle"))
            rows += [
                _row(
                    f"fuse, base of {name}",
                    folder / "bundle",
                    [
                        "fuse",
                        "--base",
                        base,
                        "--adapters",
                        adapters,
                        "--output",
                        bundle,
                    ],
                ),
                _row(
                    f"quantize, base of {name}",
                    folder / "int8",
                    [
                        "quantize",
                        bundle,
                        "--to",
                        "int8",
                        "--output",
                        str(folder / "int8"),
                    ],
                ),
            ]
    peaks = [float(str(row["peak GB"])) for row in rows]
    facts = run_today("fuse") | {
        "peak of fuse, 4 GB to 2 GB": round(peaks[2] / peaks[0], 3),
        "peak of quantize, 4 GB to 2 GB": round(peaks[3] / peaks[1], 3),
    }
    write(output, "fuse", TEXT, rows, "peak GB", facts)


def _row(name: str, written: Path, arguments: list[str]) -> Row:
    measured = measure(
        "from dream_o.cli.weights import main",
        "assert main(arguments) == 0",
        arguments=arguments,
    )
    return as_row(name, measured, **{"result GB": round(folder_bytes(written) / 1e9, 2)})
