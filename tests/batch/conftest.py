"""Files of requests, and batches that use the stub of the model."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from dream_o.batch.in_process import InProcess
from dream_o.batch.run import Batch, run_batch
from tests.batch.stub import StubLoad, calls


class Quiet:
    """Keeps the outcomes and shows nothing."""

    def start(self, total, done):
        self.total, self.done = total, done
        self.outcomes = []

    def add(self, outcome):
        self.outcomes.append(outcome)

    def stop(self):
        pass


class Tried:
    """A folder with a file of requests, an output folder, and the calls of the stub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.load = StubLoad(folder)
        self.seen = Quiet()

    def requests(self, *rows, name="requests.jsonl"):
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def run(self, requests, engine_of=InProcess, output=None, **options):
        batch = Batch(requests, str(output or self.output), **options)
        return run_batch(batch, engine_of, self.seen, self.load)

    @property
    def prompts(self):
        """The prompt of every image that was begun, in order."""
        return [prompt for _, prompt in calls(self.folder)]

    def results(self):
        rows = pyarrow.parquet.read_table(self.output / "results.parquet").to_pylist()
        return {row["name"]: row for row in rows}

    def images(self):
        return sorted(
            path.relative_to(self.output).as_posix()
            for path in self.output.rglob("*")
            if path.suffix in (".webp", ".jpg", ".png") and path.name != "contact-sheet.webp"
        )


@pytest.fixture
def tried(tmp_path):
    return Tried(tmp_path)


def numbered(count, **inputs):
    """Requests `a-0`, `a-1` and so on, each with another prompt."""
    return [
        {"name": f"a-{number}", "prompt": f"hill {number}", "seed": number, **inputs}
        for number in range(count)
    ]
