"""What is measured: a step in a process of its own, with the most memory that it held; steps."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
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
