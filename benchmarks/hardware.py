"""Describes the machine of a measurement, and measures how fast it multiplies matrices."""

import datetime
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch


def machine() -> dict[str, object]:
    """The machine: cores, processor and versions."""
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
    facts = run_today(" ".join([benchmark, f"--device {device}", *given]))
    return facts | {
        "device": torch.cuda.get_device_name(device) if on_cuda else _processor(),
        "machine": machine() | {"threads": torch.get_num_threads()},
    }


def run_today(arguments: str) -> dict[str, object]:
    """The command `script/bench` with its arguments, the date and the machine of a report."""
    return {
        "command": f"script/bench {arguments}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
    }


# Sides of the matrices: large enough that a larger one is not faster.
MATRIX_SIDE: Mapping[str, int] = {"cuda": 8192, "cpu": 2048}
MATRIX_PRODUCTS = 20


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The operations a second of a product of large square matrices, the fastest of twenty."""
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
    return 2 * side**3 / min(seconds)


def wait_for(device: torch.device) -> None:
    """Waits until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
