"""The tests."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The clone."""


def tracked() -> list[str]:
    """The repository's files; what else lies in its folder is not the project's."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
