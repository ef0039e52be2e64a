"""How many actors a batch on Ray has."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from dream_o.errors import SettingError, UserError

# Cores that Ray reserves on a machine without GPUs, so that two actors and their reading tasks fit
# on two cores. A GPU's actor reserves the GPU alone.
ACTOR_CPUS, READING_CPUS = 0.75, 0.25


@dataclass(frozen=True)
class Pool:
    """The actors.

    Attributes:
        address: the cluster's; None to start Ray on this machine.
        least: actors at the beginning and at least; None for one a device.
        most: actors at most; None for one a device.
        device: DREAM_O_DEVICE; `cuda` also if the cluster has no GPU yet.
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


@dataclass(frozen=True)
class Size:
    """How many actors there are.

    Attributes:
        least: at the beginning and at least.
        most: at most.
        on_gpu: whether each has a GPU.
        on_machine: at most on one machine, whose cores they share.
    """

    least: int
    most: int
    on_gpu: bool
    on_machine: int


def size_of(pool: Pool, nodes: Iterable[dict[str, Any]], is_here: bool) -> Size:
    """The actors that a pool has on the machines that are there now.

    On machines without GPUs, the actors that a batch begins with leave cores for the tasks that
    prepare references.

    Args:
        pool: what was asked for.
        nodes: what `ray.nodes()` returns.
        is_here: whether Ray has this machine alone, so that no machine can come later.

    Raises:
        UserError: GPUs are asked for, and none can come.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    on_gpu = pool.device == "cuda" or (gpus > 0 and pool.device != "cpu")
    if on_gpu and not gpus and is_here:
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
        most = min(most, fit) if is_here else most
    return Size(least, most, on_gpu, math.ceil(most / max(1, len(machines))))


def fitted(size: Size, parts: int) -> Size:
    """The size with no more actors than parts: another one would load the model for nothing."""
    return replace(
        size,
        least=min(size.least, parts),
        most=min(size.most, parts),
        on_machine=min(size.on_machine, parts),
    )
