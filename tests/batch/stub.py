"""A stub of the model: it draws noise at once, and fails in the way that the prompt says."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dream_o.errors import InputError, UserError
from dream_o.service.result import Result
from dream_o.service.seeds import choose_seed

MOST_SECONDS = 120  # the longest time that the images of a process wait for other processes


@dataclass(frozen=True)
class StubLoad:
    """Loads a stub.

    Attributes:
        folder: the folder of the file `calls`, to which each call adds a line.
        seconds: the time that each image takes.
        error: the error of loading; empty for none.
        only_one: the error of loading in all processes but the first, which then make a file
            `refused`; empty for none.
        together: each image waits until so many processes have begun one.
    """

    folder: Path
    seconds: float = 0.0
    error: str = ""
    only_one: str = ""
    together: int = 1

    def __call__(self, threads):
        if self.error:
            raise UserError(self.error)
        if self.only_one:
            try:
                (self.folder / "loaded").open("x").close()
            except FileExistsError:
                (self.folder / "refused").touch()
                raise UserError(self.only_one) from None
        return Stub(self)


class Stub:
    def __init__(self, load: StubLoad) -> None:
        self.load = load
        self.healthy = True
        self.end_of_waiting = time.monotonic() + MOST_SECONDS

    def generate(self, request):
        before = sum(prompt == request.prompt for _, prompt in calls(self.load.folder))
        with (self.load.folder / "calls").open("a") as file:
            file.write(f"{os.getpid()} {request.prompt}\n")
        self._obey(request.prompt, is_first=not before)
        self._wait_for_others()
        time.sleep(self.load.seconds)
        seed = choose_seed(request.seed)
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 48, 3), np.uint8)
        made = {"prompt": request.prompt, "seed": seed}
        return Result(Image.fromarray(pixels), made, {"seed": seed, "seconds.denoising": 0.25})

    def is_healthy(self):
        return self.healthy

    def _wait_for_others(self):
        while time.monotonic() < self.end_of_waiting:
            if len({process for process, _ in calls(self.load.folder)}) >= self.load.together:
                return
            time.sleep(0.05)

    def _obey(self, prompt, is_first):
        when, _, what = prompt.partition(": ")
        if not (when == "always" or (when == "first" and is_first)):
            return
        if what.startswith("refuse"):
            raise InputError("ref_image1", "no face found")
        if what.startswith("fail"):
            raise RuntimeError("the device said no")
        if what.startswith("lose the device"):
            self.healthy = False
            raise RuntimeError("CUDA error")
        if what.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)


def calls(folder: Path) -> list[tuple[int, str]]:
    """The process ID and the prompt of every image that was begun."""
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in lines]
