"""Code in a process of its own, for what a whole process does: memory, imports."""

import subprocess
import sys

# Linux starts a process's peak memory at that of the process that it was started from: between
# the tests and the code stands one that is small.
BETWEEN = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"


def run_fresh(code: str, *arguments: object) -> str:
    """What the code prints; AssertionError with its standard error when it fails."""
    command = [sys.executable, "-c", BETWEEN, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
