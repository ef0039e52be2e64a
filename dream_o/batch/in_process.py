"""Makes tasks in this process, without Ray."""

from collections.abc import Iterable, Iterator

from dream_o.batch.ledger import Outcome, Task
from dream_o.batch.results import DONE
from dream_o.batch.worker import Job, Ready, Worker


class InProcess:
    """One worker in this process, which loads the model before the first task."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._worker: Worker | None = None

    def make(self, tasks: Iterable[Task], run: str) -> Iterator[Outcome]:
        """Makes the tasks in their order and yields the outcomes.

        Args:
            tasks: at least one task.
            run: the name under which these tasks have their journals.

        Raises:
            UserError: the model cannot be loaded.
        """
        if self._worker is None:
            self._worker = Worker(self.job)
        for number, task in enumerate(tasks):
            journal = f"{DONE}/{run}-{number:07}.json"
            yield from self._worker.make_all([Ready(task, {})], journal)

    def close(self) -> None:
        """Releases the model."""
        self._worker = None
