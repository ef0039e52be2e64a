"""`script/bench fuse`: does the memory that fusing needs grow with the model?"""

import tempfile
from pathlib import Path

import torch

from dream_o.bench.measure import as_row, folder_bytes, machine, measure
from dream_o.bench.models import Size, generate_adapters, generate_base
from dream_o.bench.report import write

SIZES = {
    "2 GB": Size(double=6, single=12, t5_layers=12),
    "4 GB": Size(double=14, single=28, t5_layers=20),
}

TEXT = """# Fusing: peak memory

Base models of two sizes with random weights (float32, three shards or more), with all five
adapters of version 1.1, rank 32, are fused by `python -m dream_o.weights fuse`, each in a process
of its own. *peak GB* is the largest resident size of the whole process, Python and torch included.
Made by `script/bench fuse`."""


def run(output: Path) -> None:
    """Generates both models, fuses them and writes the report."""
    rows = []
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            generate_base(folder / "base", size, torch.float32)
            generate_adapters(folder / "adapters", size, torch.float32)
            measured = measure(
                "from dream_o.weights.__main__ import main",
                "assert main(arguments) == 0",
                arguments=[
                    "fuse",
                    *("--base", str(folder / "base")),
                    *("--adapters", str(folder / "adapters")),
                    *("--output", str(folder / "bundle")),
                ],
            )
            size_gb = folder_bytes(folder / "bundle") / 1e9
            rows.append(as_row(f"base of {name}", measured, **{"bundle GB": round(size_gb, 2)}))
    peaks = [float(str(row["peak GB"])) for row in rows]
    facts = {"ratio of the peaks": round(max(peaks) / min(peaks), 3), "machine": machine()}
    write(output, "fuse", TEXT, rows, "peak GB", facts)
