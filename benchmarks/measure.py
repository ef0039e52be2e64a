"""Measures time and memory of a piece of code in its own process, and counts computed steps."""

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
    """The results of a run.

    Attributes:
        seconds: the duration without the imports.
        peak: the largest resident size of the whole process in bytes, with mapped files.
        anonymous: the resident bytes at the end that belong to no file; 0 if the system does not
            report them.
    """

    seconds: float
    peak: int
    anonymous: int


def measure(imports: str, step: str, **values: object) -> Measured:
    """Runs the Python code `imports` and then `step`, with these variables."""
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
    """Yields a list that grows by one in each step that is computed and not extrapolated."""
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
    """The total size of the files below a folder whose names match a pattern."""
    return sum(path.stat().st_size for path in folder.rglob(pattern))


def median(runs: list[Measured]) -> Measured:
    """The run with the median time."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def as_row(name: str, run: Measured, **more: object) -> Mapping[str, object]:
    """A row of the report."""
    return {
        "what": name,
        "seconds": round(run.seconds, 2),
        "peak GB": round(run.peak / 1e9, 2),
        **more,
    }
