"""A run's tasks as a data source for Ray Data: a file in the output folder, read in small parts."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource.datasource import Datasource, ReadTask

from dream_o.batch.ledger import Task
from dream_o.batch.preparing import get_ready
from dream_o.batch.results import DONE, PLANS
from dream_o.batch.wire import ready_table
from dream_o.batch.worker import Job
from dream_o.errors import UserError

# A part has one task for each PARTS tasks of the run, at most MOST_IN_A_PART. Parts are small,
# because the outcomes of a part arrive together; their number is limited, because the driver keeps
# each part in memory.
PARTS, MOST_IN_A_PART = 1000, 16


def plan_path(run: str) -> str:
    """The path of a run's plan in the output folder. The file exists until the batch ends."""
    return f"{PLANS}/{run}.jsonl"


@dataclass(frozen=True)
class Part:
    """A part of a plan: its number, its bytes `[start, end)`, and the number of its rows."""

    number: int
    start: int
    end: int
    rows: int


@dataclass(frozen=True)
class Plan:
    """What a reading task needs of its run; can be sent to another machine.

    Attributes:
        job: what every worker needs.
        run: the run's name.
        references: DREAM_O_REFERENCES.
        on_gpu: whether the workers' devices are GPUs.
    """

    job: Job
    run: str
    references: str
    on_gpu: bool

    @property
    def path(self) -> str:
        """The path of the plan in the output folder."""
        return plan_path(self.run)

    def write(self, tasks: Iterable[Task]) -> list[Part]:
        """Writes the tasks, one JSON object per line, and returns the parts."""
        starts = [0]
        with self.job.storage.writing(self.path) as file:
            for task in tasks:
                line = json.dumps(asdict(task)).encode() + b"\n"
                file.write(line)
                starts.append(starts[-1] + len(line))
        rows = len(starts) - 1
        size = max(1, min(MOST_IN_A_PART, rows // PARTS))
        bounds = [*starts[:-1:size], starts[-1]]
        return [
            Part(number, bounds[number], bounds[number + 1], min(size, rows - number * size))
            for number in range(len(bounds) - 1)
        ]

    def read(self, part: Part) -> pyarrow.Table:
        """Reads the tasks of a part and prepares their references."""
        content = self.job.storage.read(self.path, part.start, part.end) or b""
        tasks = [Task(**json.loads(line)) for line in content.splitlines()]
        if len(tasks) != part.rows:
            raise UserError(
                "--output: a machine does not see the plan in the output folder; all machines must "
                "share the folder"
            )
        ready = [get_ready(each, self.job, self.references, self.on_gpu) for each in tasks]
        return ready_table(ready, f"{DONE}/{self.run}-{part.number:07}.json")


class PlanSource(Datasource):
    """The parts of a plan as a source of Ray Data, one reading task for each."""

    def __init__(self, plan: Plan, parts: Sequence[Part]) -> None:
        super().__init__()
        self._parts = parts
        # Stored once in the cluster's memory, instead of in each of many thousand reading tasks.
        self._plan = ray.put(plan)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[ReadTask]:
        """Returns one reading task for each part."""
        return [_read_task(self._plan, part) for part in self._parts]

    def estimate_inmemory_data_size(self) -> int:
        """The bytes of the plan, without references."""
        return sum(part.end - part.start for part in self._parts)

    def get_name(self) -> str:
        """The name that Ray's dashboard shows."""
        return "Requests"


def _read_task(plan: Any, part: Part) -> ReadTask:
    about = BlockMetadata(part.rows, part.end - part.start, None, None)
    return ReadTask(lambda: [ray.get(plan).read(part)], about)
