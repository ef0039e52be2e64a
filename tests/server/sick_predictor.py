"""dream-o on a device that is broken while a file is there: a GPU of the tests."""

import atexit
import os
import time
from pathlib import Path

import torch

from predict import Predictor


class SickPredictor(Predictor):
    """`DREAM_O_TEST_SICKNESS` names the file; what is in it says how the device is broken."""

    def setup(self, weights: str | None = None) -> None:
        """Loads the bundle on the CPU, and then takes its thread for a GPU's."""
        super().setup(weights)
        thread = self.dream_o.thread
        thread.device = torch.device("cuda")
        thread._compute = compute
        atexit.register(end)


def compute() -> None:
    """The product of a health check."""
    sickness = Path(os.environ["DREAM_O_TEST_SICKNESS"])
    if not sickness.exists():
        return
    if sickness.read_text() == "hangs":
        time.sleep(10)
    else:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def end() -> None:
    """The end of the worker's process, which takes longer than Cog waits if the device is stuck."""
    sickness = Path(os.environ["DREAM_O_TEST_SICKNESS"])
    if sickness.exists() and sickness.read_text() == "does not end":
        time.sleep(60)
