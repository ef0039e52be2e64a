"""How many actors a batch on Ray has."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dream_o.errors import SettingError, UserError

# The cores that Ray reserves for an actor without a GPU and for a reading task, so that two actors
# and their tasks fit on two cores. An actor with a GPU reserves only the GPU.
ACTOR_CPUS, READING_CPUS = 0.75, 0.25


@dataclass(frozen=True)
class Pool:
    """The pool of actors that the user asks for.

    Attributes:
        address: the address of the cluster; None to start Ray on this machine.
        least: the number of actors at the start, and the minimum; None for one per device.
        most: the maximum number of actors; None for one per device.
        device: DREAM_O_DEVICE; with `cuda`, actors ask for GPUs that a cluster does not have yet.
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
                "names devices, but Ray assigns a device to each actor; use auto, cuda or cpu",
            )
        if self.least and self.most and self.least > self.most:
            raise UserError(f"--min {self.least} is more than --max {self.most}; lower --min")


@dataclass(frozen=True)
class Size:
    """The pool that fits the machines.

    Attributes:
        least: the number of actors at the start, and the minimum.
        most: the maximum number of actors.
        on_gpu: whether each actor has a GPU.
        on_machine: the maximum number of actors on one machine, which share its cores.
    """

    least: int
    most: int
    on_gpu: bool
    on_machine: int


def size_of(pool: Pool, nodes: Iterable[dict[str, Any]], is_local: bool) -> Size:
    """Returns the size of a pool on the machines that are alive.

    On machines without GPUs, the pool starts with few enough actors that cores are left for the
    tasks that prepare references.

    Args:
        pool: what the user asks for.
        nodes: what `ray.nodes()` returns.
        is_local: whether Ray runs on this machine alone, so that no machine can join later.

    Raises:
        SettingError: the device is `cuda`, but this machine has no GPU, and no other can join.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    on_gpu = pool.device == "cuda" or (gpus > 0 and pool.device != "cpu")
    if on_gpu and not gpus and is_local:
        raise SettingError(
            "DREAM_O_DEVICE", pool.device, "needs a GPU, and Ray finds none here; use auto or cpu"
        )
    devices = max(1, gpus) if on_gpu else 1
    most = pool.most or max(devices, pool.least or 1)
    least = pool.least or min(devices, most)
    if not on_gpu:
        cores = (machine.get("CPU", 0.0) for machine in machines)
        fit = max(1, sum(max(0, int((each - READING_CPUS) / ACTOR_CPUS)) for each in cores))
        least = min(least, fit)
        most = min(most, fit) if is_local else most
    return Size(least, most, on_gpu, math.ceil(most / max(1, len(machines))))


def limit_to_parts(size: Size, parts: int) -> Size:
    """Limits the number of actors to the number of parts, so that each actor has work."""
    return replace(
        size,
        least=min(size.least, parts),
        most=min(size.most, parts),
        on_machine=min(size.on_machine, parts),
    )
