"""Makes tasks on Ray: CPU tasks read and prepare them, a pool of actors makes the images.

A task of Ray Data takes one part of the plan, a few rows that share a journal. If its actor or its
machine ends, Ray gives the part to another actor, which goes on after the last image in the
journal.
"""

import logging
import math
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow

# Ray reads these when it is imported: nothing about its use is sent to its vendor, and what its own
# processes log stays in its log files.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data
import ray.exceptions
from ray.util import metrics

from dream_o.batch.ledger import FAILED, Outcome, Task
from dream_o.batch.ray_plan import Plan, PlanSource
from dream_o.batch.wire import outcome_table, outcomes_of, tasks_of
from dream_o.batch.worker import DeviceLostError, Job, Worker
from dream_o.errors import SettingError, UserError

# Cores that Ray reserves on a machine without GPUs, so that two actors and their reading tasks fit
# on two cores. A GPU's actor reserves the GPU alone.
ACTOR_CPUS, READING_CPUS = 0.75, 0.25
# How many actors in a row may die while they load before the batch fails.
DEATHS_AT_START = 3
# Parts that wait at each actor, so that it never waits for the driver.
PARTS_AT_ACTOR = 2
ANSWER_SECONDS = 10.0
# The digest of the one outcome of an actor that cannot load the model.
UNUSABLE = "unusable"


@dataclass(frozen=True)
class Pool:
    """The actors.

    Attributes:
        address: the cluster's; None to start Ray on this machine.
        least: actors at the beginning and at least; None for one a device.
        most: actors at most; None for one a device.
        device: DREAM_O_DEVICE.
        references: DREAM_O_REFERENCES.
    """

    address: str | None = None
    least: int | None = None
    most: int | None = None
    device: str = "auto"
    references: str = "auto"

    def __post_init__(self) -> None:
        """Raises UserError if the numbers or the device cannot be used."""
        if ":" in self.device:
            raise SettingError(
                "DREAM_O_DEVICE",
                self.device,
                "names devices, but Ray gives each actor its own; use auto, cuda or cpu",
            )
        if self.least and self.most and self.least > self.most:
            raise UserError(f"--min {self.least} is more than --max {self.most}; lower --min")


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
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self._on_gpu = gpus > 0 and pool.device != "cpu"
        devices = gpus if self._on_gpu else 1
        self._most = pool.most or max(devices, pool.least or 1)
        self._least = pool.least or min(devices, self._most)
        machines = len([each for each in ray.nodes() if each["Alive"]])
        self._actors_on_machine = math.ceil(self._most / machines)

    def make(self, tasks: Iterable[Task], run: str) -> Iterator[Outcome]:
        """The outcomes of the tasks, as they come.

        Raises:
            UserError: the model cannot be loaded, or all actors die.
        """
        plan = Plan(self.job, run, self.pool.references, self._on_gpu)
        parts = plan.write(tasks)
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
            fn_constructor_args=(self.job, self._actors_on_machine),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=self._least,
                max_size=self._most,
                max_tasks_in_flight_per_actor=PARTS_AT_ACTOR,
            ),
            **({"num_gpus": 1} if self._on_gpu else {"num_cpus": ACTOR_CPUS}),
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
            raise UserError(f"the actors failed: {_last_line(error)}") from error

    def close(self) -> None:
        """Leaves the cluster, or ends the one that was started here."""
        if self._started:
            self._started = False
            ray.shutdown()


class Actor:
    """A worker in an actor of Ray.

    Args:
        job: what every worker needs.
        actors: the most actors on this machine, which share its cores.
    """

    def __init__(self, job: Job, actors: int) -> None:
        self._images = metrics.Counter(
            "dream_o_images", "Images by status, succeeded or failed.", ("status",)
        )
        self._seconds = metrics.Counter(
            "dream_o_seconds", "Seconds by stage; `whole` is from request to file.", ("stage",)
        )
        self._problem = ""
        try:
            # Ray lets an actor use one thread unless it reserves whole cores.
            self._worker = Worker(job, max(1, (os.cpu_count() or 1) // actors))
        except UserError as error:  # another actor cannot load it either
            self._problem = str(error)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        """The outcomes of one part."""
        if self._problem:
            return outcome_table([Outcome("", UNUSABLE, FAILED, error=self._problem)])
        journal, tasks = tasks_of(table)
        outcomes = []
        try:
            for outcome in self._worker.make_all(tasks, journal):
                self._count(outcome)
                outcomes.append(outcome)
        except DeviceLostError:
            # Ray starts another actor in its place and gives it this part.
            os._exit(1)
        return outcome_table(outcomes)

    def _count(self, outcome: Outcome) -> None:
        self._images.inc(1, {"status": outcome.status})
        for stage, seconds in {**(outcome.stages or {}), "whole": outcome.seconds}.items():
            if seconds > 0:
                self._seconds.inc(seconds, {"stage": stage})


def _start(address: str | None) -> None:
    try:
        _check_answer(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--address {address}: no Ray cluster answers there; give HOST:PORT of a head node, or "
            "auto on a machine of the cluster"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _check_answer(address: str | None) -> None:
    """Raises OSError if nothing listens at HOST:PORT: Ray would wait for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()


def _last_line(error: BaseException) -> str:
    """The last line of an error of Ray, which is what the actor said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
