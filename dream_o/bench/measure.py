"""A step in a process of its own: how long it took and how much memory the process ever held."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dream_o.settings import ROOT
from dream_o.transformer import DreamOTransformer2DModel

MEASURED = """
import json, resource, sys, time
{imports}
start = time.perf_counter()
{step}
seconds = time.perf_counter() - start
lines = open("/proc/self/status").read().splitlines() if sys.platform == "linux" else []
status = {{line.split(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}}
# Linux hands ru_maxrss on from the parent process; VmHWM is the process's own.
peak = int(status["VmHWM"]) * 1024 if status else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
anonymous = int(status.get("RssAnon", 0)) * 1024
print(json.dumps({{"seconds": seconds, "peak": peak, "anonymous": anonymous}}))
"""


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        seconds: of the step, without the imports.
        peak: bytes, the largest resident size that the whole process ever had, mapped files
            included.
        anonymous: bytes resident at the end that are no file's (0 where the system does not tell).
    """

    seconds: float
    peak: int
    anonymous: int


def measure(imports: str, step: str, **values: object) -> Measured:
    """Runs `step` after `imports`, both Python, with these variables defined."""
    defined = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    code = MEASURED.format(imports=f"{imports}\n{defined}", step=step)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(  # noqa: S603 - this module's own code
        command, env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        raise RuntimeError(run.stderr)
    return Measured(**json.loads(run.stdout.splitlines()[-1]))


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def made_by(benchmark: str, device: torch.device, **options: object) -> dict[str, object]:
    """The command, the date and the machine of a report; options that are None are left out."""
    given = [f"--{name} {value}" for name, value in options.items() if value is not None]
    on_cuda = device.type == "cuda"
    return {
        "command": " ".join(["script/bench", benchmark, f"--device {device}", *given]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if on_cuda else _processor(),
        "machine": machine() | {"threads": torch.get_num_threads()},
    }


# Sides of the matrices: large enough that a larger one is not faster.
MATRIX_SIDE: Mapping[str, int] = {"cuda": 8192, "cpu": 2048}
MATRIX_PRODUCTS = 10


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of one product of large square matrices, the median of ten."""
    side = MATRIX_SIDE.get(device.type, MATRIX_SIDE["cpu"])
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(side, side, generator=generator).to(device=device, dtype=dtype)
        for _ in range(2)
    )
    torch.matmul(left, right)
    seconds = []
    for _ in range(MATRIX_PRODUCTS):
        wait_for(device)
        begun = time.perf_counter()
        torch.matmul(left, right)
        wait_for(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(seconds)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def computed_steps(transformer: DreamOTransformer2DModel) -> Iterator[list[None]]:
    """A list that grows by one in each step whose blocks are computed, not extrapolated."""
    block: Any = transformer.transformer_blocks[0]
    compute = block.compute
    computed: list[None] = []

    def counting(*arguments: Any) -> Any:
        computed.append(None)
        return compute(*arguments)

    block.compute = counting
    try:
        yield computed
    finally:
        block.compute = compute


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def folder_bytes(folder: Path, pattern: str = "*.safetensors") -> int:
    """The size of the files below a folder whose names match."""
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def median(runs: list[Measured]) -> Measured:
    """The run in the middle by time."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def as_row(name: str, run: Measured, **more: object) -> Mapping[str, object]:
    """A line of the report."""
    return {
        "what": name,
        "seconds": round(run.seconds, 2),
        "peak GB": round(run.peak / 1e9, 2),
        **more,
    }
