"""schemathesis and atheris, in an environment of their own."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks import ROOT
from benchmarks.faults.served import Served
from benchmarks.report import Row

ENVIRONMENT = ROOT / ".venv-faults"
SCHEMATHESIS, ATHERIS = "schemathesis>=4.32,<5", "atheris>=3.0"

ATHERIS_CODE = """
import io, sys, atheris
with atheris.instrument_imports(include=["PIL", "dream_o.images"]):
    import PIL.Image
    from dream_o.images import opening
from dream_o.errors import InputError
PIL.Image.init()
opening.MAX_PIXELS = 200_000
def one(data):
    try:
        opening.open_image(io.BytesIO(data), "ref_image1")
    except InputError:
        pass
atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


def installed(requirement: str) -> Path | None:
    """The Python of an environment that has it and all that this one has; None where it cannot."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
        (site,) = (ENVIRONMENT / "lib").glob("python*/site-packages")
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (site / "ours.pth").write_text("\n".join(ours) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", requirement]
    print(f"installing {requirement} into {ENVIRONMENT.name}", file=sys.stderr)
    done = subprocess.run(install, check=False, capture_output=True)  # noqa: S603 - our own
    return None if done.returncode else python


def schemathesis(served: Served, name: str, document: str, seconds: int, headers: list[str]) -> Row:
    """Requests that are made from the served document; only answers count, not how many fail."""
    python = installed(SCHEMATHESIS)
    if python is None:
        return {"test": name, "cases": 0, "result": "not run: schemathesis cannot be installed"}
    report = served.log.with_name("schemathesis.ndjson")
    command = [
        *(str(python), "-m", "schemathesis.cli", "run", document, "--max-time", str(seconds)),
        *("--checks", "not_a_server_error", "--max-examples", "100000", "--workers", "2"),
        *("--report", "ndjson", "--report-ndjson-path", str(report), "--exclude-path", "/shutdown"),
        *("--request-timeout", "60", "--mode", "all"),
    ]
    for each in headers:
        command += ["--header", each]
    done = subprocess.run(  # noqa: S603 - our own
        command, check=False, capture_output=True, text=True, timeout=seconds + 300
    )
    cases, statuses = _read(report, served)
    if not cases:
        served.problems.append(f"{name}: schemathesis sent nothing: {done.stdout[-500:]}")
    told = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    return {"test": f"{name}, {seconds} s", "cases": cases, "result": told}


def _read(report: Path, served: Served) -> tuple[int, dict[int, int]]:
    statuses: dict[int, int] = {}
    for line in report.read_text().splitlines() if report.exists() else ():
        for status, text in _answers(json.loads(line)):
            statuses[status] = statuses.get(status, 0) + 1
            served.check("schemathesis", status, text)
    return sum(statuses.values()), statuses


def _answers(value: object) -> list[tuple[int, str]]:
    """Every response in a line of the report."""
    if isinstance(value, list):
        return [each for part in value for each in _answers(part)]
    if not isinstance(value, dict):
        return []
    response = value.get("response")
    if isinstance(response, dict) and "status_code" in response:
        return [(int(response["status_code"]), json.dumps(response))]
    return [each for part in value.values() for each in _answers(part)]


def atheris(seconds: int, folder: Path, problems: list[str]) -> Row:
    """Coverage-guided fuzzing of `open_image`."""
    name = "atheris on open_image"
    python = installed(ATHERIS)
    if python is None:
        return {"test": name, "cases": 0, "result": "not run: atheris cannot be installed"}
    folder.mkdir(parents=True)
    done = subprocess.run(  # noqa: S603 - our own
        [str(python), "-c", ATHERIS_CODE, f"-max_total_time={seconds}", "-rss_limit_mb=4096"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=seconds + 300,
    )
    runs = re.findall(r"^(?:Done )?#?(\d+)", done.stderr, re.MULTILINE)
    if done.returncode:
        problems.append(f"{name}: {done.stderr[-600:]}")
    return {
        "test": f"{name}, {seconds} s",
        "cases": max(map(int, runs), default=0),
        "result": "an error that is not an InputError" if done.returncode else "none",
    }
