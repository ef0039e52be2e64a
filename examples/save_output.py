"""Saves the image of a prediction: `curl ... | python examples/save_output.py FILE`."""

import base64
import json
import sys
from pathlib import Path
from typing import Any


def save_output(answer: dict[str, Any], file: Path) -> None:
    """Writes the data URL in `output`; SystemExit with the server's sentence if there is none."""
    if answer.get("status") != "succeeded":
        sys.exit(f"error: {answer.get('error') or answer.get('detail') or answer}")
    file.write_bytes(base64.b64decode(answer["output"].partition(",")[2]))
    print(f"{file}, seed {answer['metrics']['seed']}")


if __name__ == "__main__":
    save_output(json.load(sys.stdin), Path(sys.argv[1]))
