"""Rank 0: starts the followers, sends them each call, and ends all of them if one fails."""

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from diffusers.hooks import HookRegistry, ModelHook

from dream_o.errors import UserError
from dream_o.paths import IMPORT_ROOT
from dream_o.runtime.parallel.sharing import (
    OUT_OF_MEMORY,
    PATIENCE,
    describe,
    join,
    leave,
    share_tokens,
)
from dream_o.runtime.threads import suited_threads
from dream_o.transformer import DreamOTransformer2DModel

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.001
# The time from the end of a process's connection to the end of the process.
ENDING_SECONDS = 5.0


class Followers:
    """The follower processes, as managed by rank 0.

    If a call fails on one rank, the others wait for it inside their call and cannot be interrupted.
    So all followers are ended then, and the next call starts new ones.
    """

    def __init__(
        self,
        transformer: DreamOTransformer2DModel,
        bundle: Path,
        dtype: torch.dtype,
        devices: list[torch.device],
    ) -> None:
        """Starts the followers; the first of `devices` is rank 0's and has the transformer.

        Raises:
            UserError: a follower ended before it was ready, or this process already has followers.
        """
        self.transformer = transformer
        self.bundle, self.dtype, self.devices = bundle, dtype, devices
        self.processes: list[subprocess.Popen[str]] = []
        self.config = share_tokens(transformer, len(devices))
        self.store: dist.TCPStore | None = None
        # A thread makes the calls one after another. If a request is cancelled by an exception in
        # its own thread, a running call still finishes, so that all ranks stay in step.
        self.thread = ThreadPoolExecutor(1, "parallel")
        registry = HookRegistry.check_if_exists_or_initialize(transformer)
        registry.register_hook(FollowedCalls(self), "followed_calls")
        self.thread.submit(self._start).result()

    def call(self, forward: Callable[..., torch.Tensor], arguments: dict[str, Any]) -> torch.Tensor:
        """Calls `forward` on all devices and returns its result.

        Raises:
            UserError: a follower has ended.
            torch.OutOfMemoryError: a device has too little memory for its part.
        """
        return self.thread.submit(self._call, forward, arguments).result()

    def close(self) -> None:
        """Ends the followers; the next call starts them again. They also end with this process."""
        self.thread.submit(self._stop).result()

    def _start(self) -> None:
        begun = time.perf_counter()
        if dist.is_initialized():
            raise UserError(
                "this process already belongs to a process group, and can belong to only one"
            )
        atexit.register(self._stop)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.store = dist.TCPStore(
            "127.0.0.1",
            port,
            is_master=True,
            timeout=PATIENCE,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        # Otherwise NCCL would end this process, and with it the server, when a follower ends.
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
        paths = filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")])
        dtype = str(self.dtype).removeprefix("torch.")
        try:
            for rank, device in enumerate(self.devices[1:], start=1):
                process = subprocess.Popen(
                    [sys.executable, "-m", "dream_o.runtime.parallel"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                )
                self.processes.append(process)
                told = {
                    "bundle": str(self.bundle.resolve()),
                    "dtype": dtype,
                    "device": str(device),
                    "rank": rank,
                    "ranks": len(self.devices),
                    "port": port,
                    "parent": os.getpid(),
                }
                self._tell(process, told)
            for process in self.processes:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise ConnectionError("a follower ended before it was ready")
            join(self.config, self.store, 0, self.devices[0])
        except Exception as error:
            self._give_up(error)
        logger.info(
            "%d devices share each image; they were ready in %.1f s",
            len(self.devices),
            time.perf_counter() - begun,
        )

    def _tell(self, process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def _call(
        self, forward: Callable[..., torch.Tensor], arguments: dict[str, Any]
    ) -> torch.Tensor:
        if not self.processes:
            self._start()
        tensors: list[torch.Tensor] = []
        message = {name: describe(value, tensors) for name, value in arguments.items()}
        try:
            for process in self.processes:
                self._tell(process, message)
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
            with torch.no_grad(), suited_threads(self.transformer):
                velocity = forward(**arguments)
            self._wait()
        except Exception as error:
            self._give_up(error)
        return velocity

    def _wait(self) -> None:
        # NCCL waits forever for a rank that has ended, and so would any read from the GPU.
        if self.devices[0].type != "cuda":
            return
        done = torch.cuda.Event()
        done.record()
        while not done.query():
            if any(process.poll() is not None for process in self.processes):
                raise ConnectionError("a follower ended during a call")
            time.sleep(POLL_SECONDS)

    def _give_up(self, error: Exception) -> NoReturn:
        """Ends all followers and raises the error for the user."""
        ended = {} if isinstance(error, torch.OutOfMemoryError) else self._ended()
        self._stop()
        if OUT_OF_MEMORY in ended.values():
            raise torch.OutOfMemoryError(f"on {', '.join(ended)}") from error
        if ended:
            raise UserError(
                f"the process of {', '.join(ended)} ended; the next request starts it again"
            ) from error
        raise error

    def _ended(self) -> dict[str, int]:
        """The exit codes of the followers that have ended, by rank and device."""
        deadline = time.monotonic() + ENDING_SECONDS
        ended: dict[str, int] = {}
        while not ended and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            for rank, process in enumerate(self.processes, start=1):
                code = process.poll()
                if code is not None:
                    ended[f"rank {rank} ({self.devices[rank]})"] = code
        return ended

    def _stop(self) -> None:
        atexit.unregister(self._stop)
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()
        self.processes = []
        if self.store is not None:
            leave(self.devices[0])
        self.store = None


class FollowedCalls(ModelHook):
    """Sends each call of rank 0's transformer to its followers."""

    def __init__(self, followers: Followers) -> None:
        super().__init__()
        self.followers = followers

    def new_forward(self, module: torch.nn.Module, **arguments: Any) -> torch.Tensor:
        """Takes the keyword arguments of `DreamOTransformer2DModel.forward`."""
        if arguments.get("reference_tokens") is None:
            # An empty rotary table cannot be split over ranks.
            arguments["rotary"] = (*arguments["rotary"][:2], None)
        return self.followers.call(self.fn_ref.original_forward, arguments)
