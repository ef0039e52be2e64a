"""Makes images on Ray: CPU tasks read the requests and prepare references, actors make the images.

Each task of Ray Data handles one part of the plan, a few requests that share a journal. If an actor
or its machine fails, Ray gives the part to another actor, which continues after the last image in
the journal.
"""

import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow

# Ray reads these variables when it is imported or started. Ray must not send usage statistics to
# its vendor. Its own processes log only to files. It must not end idle processes that prepare
# references, because they hold the networks and the last references.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")

import ray
import ray.data
import ray.exceptions
from ray.util import metrics

from dream_o.batch.actor_states import FAILED as CANNOT_LOAD
from dream_o.batch.actor_states import LOADING, WORKS, ActorState, pauses
from dream_o.batch.ledger import FAILED, Outcome, Task
from dream_o.batch.ray_plan import Plan, PlanSource, plan_path
from dream_o.batch.ray_pool import ACTOR_CPUS, READING_CPUS, Pool, Size, limit_to_parts, size_of
from dream_o.batch.storage import StorageError
from dream_o.batch.wire import outcome_table, outcomes_of, tasks_of
from dream_o.batch.worker import DeviceLostError, Job, Worker
from dream_o.errors import UserError

# The batch fails if so many actors in a row die while they load the model.
DEATHS_AT_START = 3
# Each actor has one part in work and one in its queue, so that it never waits for the driver.
PARTS_AT_ACTOR = 2
ANSWER_SECONDS = 10.0
# The digest of an outcome whose error ends the batch, because its actor cannot work at all.
UNUSABLE = "unusable"


class OnRay:
    """Makes tasks with Ray Data.

    Raises:
        UserError: there is no cluster at the address.
    """

    def __init__(self, job: Job, pool: Pool) -> None:
        self.job = job
        self.pool = pool
        self._started = not ray.is_initialized()
        if self._started:
            _start(pool.address)

    def make(self, tasks: Iterable[Task], run: str) -> Iterator[Outcome]:
        """Yields the outcomes of the tasks in the order in which they finish.

        Raises:
            UserError: the model cannot be loaded, all actors die, or there is no GPU.
        """
        size = size_of(self.pool, ray.nodes(), self._started and self.pool.address is None)
        plan = Plan(self.job, run, self.pool.references, size.on_gpu)
        contents = self.job.contents
        if contents is not None:
            send, storage = contents.send, self.job.storage
            tasks = (replace(each, inputs=send(each.inputs, storage)) for each in tasks)
        parts = plan.write(tasks)
        size = limit_to_parts(size, len(parts))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_consecutive_actor_init_deaths = DEATHS_AT_START
        read = ray.data.read_datasource(
            PlanSource(plan, parts),
            override_num_blocks=len(parts),
            num_cpus=READING_CPUS,
        )
        made = read.map_batches(
            Actor,
            fn_constructor_args=(self.job, run, size),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=size.least,
                max_size=size.most,
                max_tasks_in_flight_per_actor=PARTS_AT_ACTOR,
            ),
            **({"num_gpus": 1} if size.on_gpu else {"num_cpus": ACTOR_CPUS}),
        )
        try:
            for table in made.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            ):
                for outcome in outcomes_of(table):
                    if outcome.digest == UNUSABLE:
                        raise UserError(outcome.error)
                    yield outcome
        except ray.exceptions.RayError as error:
            raise UserError(_sentence(error)) from error

    def close(self) -> None:
        """Disconnects from the cluster, or ends it if it was started here."""
        if self._started:
            self._started = False
            ray.shutdown()


class Actor:
    """A worker in a Ray actor.

    Args:
        job: what every worker needs.
        run: the name of the run.
        size: how many actors there are.
    """

    def __init__(self, job: Job, run: str, size: Size) -> None:
        self._images = metrics.Counter(
            "dream_o_images", "Images by status, succeeded or failed.", ("status",)
        )
        self._seconds = metrics.Counter(
            "dream_o_seconds",
            "Seconds by stage; `whole` is the time from the request to its file.",
            ("stage",),
        )
        self._problem = ""
        # Ray lets an actor use one thread unless it reserves whole cores.
        self._threads = max(1, (os.cpu_count() or 1) // size.on_machine)
        self._state = ActorState(job.storage, run, size.least)
        try:
            self._load(job, run)
        except UserError as error:
            self._problem = str(error)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            self._problem = f"the model cannot be loaded: {text}"

    def _load(self, job: Job, run: str) -> None:
        """Loads the model; keeps trying as long as another actor may still be able to.

        Raises:
            Exception: the last error, if no actor can load the model.
        """
        state = self._state
        state.write(LOADING)
        for pause in pauses():
            try:
                self._worker = Worker(job, self._threads)
            except Exception:  # torch raises its own classes, for example if memory is short
                state.write(CANNOT_LOAD)
                if state.no_actor_can_load():
                    raise
            else:
                state.write(WORKS)
                return
            time.sleep(pause)
            if job.storage.read(plan_path(run), 0, 1) is None:
                os._exit(0)  # the batch has ended

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """Makes one part of the plan; returns a table of outcomes."""
        if self._problem:
            return outcome_table([_unusable(self._problem)])
        journal, tasks = tasks_of(table)
        outcomes = []
        self._state.renew()
        try:
            for outcome in self._worker.make_all(tasks, journal):
                self._state.renew()
                self._count(outcome)
                outcomes.append(outcome)
        except StorageError as error:  # the journal cannot be read or written
            outcomes.append(_unusable(str(error)))
        except DeviceLostError:
            # Ray replaces this actor and gives the part to another one.
            os._exit(1)
        return outcome_table(outcomes)

    def _count(self, outcome: Outcome) -> None:
        self._images.inc(1, {"status": outcome.status})
        for stage, seconds in {**(outcome.stages or {}), "whole": outcome.seconds}.items():
            if seconds > 0:
                self._seconds.inc(seconds, {"stage": stage})


def _unusable(error: str) -> Outcome:
    return Outcome("", UNUSABLE, FAILED, error=error)


def _start(address: str | None) -> None:
    try:
        _check_answer(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises Exception itself if its start takes too long
        problem = (
            f"--address {address}: no Ray cluster answers there; give HOST:PORT of a head node, or "
            "auto on a machine of the cluster"
            if address
            else "Ray cannot start on this machine; fix what Ray reports, or add --no-ray to "
            "make all images in this process"
        )
        lines = str(error).strip().splitlines()
        raise UserError(f"{problem}: {lines[0] if lines else type(error).__name__}") from error
    # The command prints one sentence; the traceback is in Ray's log files.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _check_answer(address: str | None) -> None:
    """Raises OSError if nothing listens at HOST:PORT, where Ray would wait for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()


def _sentence(error: ray.exceptions.RayError) -> str:
    """The message of a UserError in an actor or task; for other errors, the last line of Ray's."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError):
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"the actors failed: {lines[-1] if lines else type(error).__name__}"
