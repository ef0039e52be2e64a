"""Context parallelism: several devices of a machine make one image together.

Each device holds the whole transformer and computes a part of the text, image and reference
tokens; in attention the devices exchange tokens for heads (Ulysses, as diffusers has it). The
process that was started is rank 0 and does all the rest of a request. For each further device it
starts a follower, `python -m dream_o.parallel`, which is told the arguments of each call of the
transformer and makes the same call. A follower knows nothing of requests, so that one that ends
between two calls, however it ends, leaves no follower waiting or ahead.
"""

import atexit
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.models._modeling_parallel import ParallelConfig, gather_size_by_comm
from torch.distributed.device_mesh import init_device_mesh

from dream_o.errors import UserError
from dream_o.settings import ROOT
from dream_o.threads import suited_threads
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.bundle import read_bundle, torch_dtype
from dream_o.weights.quantized import KINDS, set_product_dtype

logger = logging.getLogger(__name__)

# The sizes of uneven parts are told over gloo: on NCCL the GPU would have to be waited for.
BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}

# How long a process waits for another in the middle of a call, should that one hang.
PATIENCE = timedelta(minutes=10)
POLL_SECONDS = 0.001
WATCH_SECONDS = 1.0
# From the end of a process's connection to the end of the process.
ENDING_SECONDS = 5.0

# The exit code of a follower whose device's memory does not hold its part.
OUT_OF_MEMORY = 3


class GatherImage(ModelHook):
    """Makes the whole of the image tokens' parts, on every rank.

    diffusers' own gathers parts of different lengths, which gloo refuses; here they are padded.
    """

    def __init__(self, config: ContextParallelConfig) -> None:
        super().__init__()
        self.config = config

    def post_forward(self, module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        """`(batch, part of the tokens, channels)` to `(batch, tokens, channels)`."""
        group = self.config._flattened_mesh.get_group()
        counts = gather_size_by_comm(output.shape[1], group)
        longest = max(counts)
        padded = torch.nn.functional.pad(output, (0, 0, 0, longest - output.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat(
            [part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1
        )


def share_tokens(transformer: DreamOTransformer2DModel, ranks: int) -> ParallelConfig:
    """Makes the transformer compute one rank's part of its tokens, and return the whole.

    It can be called once the configuration that is returned has been given to `join`.
    """
    sharing = ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=True)
    config = ParallelConfig(context_parallel_config=sharing)
    for module in transformer.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config"):
            processor._parallel_config = config
    apply_context_parallel(transformer, sharing, {"": transformer._cp_plan[""]})
    registry = HookRegistry.check_if_exists_or_initialize(transformer.proj_out)
    registry.register_hook(GatherImage(sharing), "gather_image")
    return config


def join(config: ParallelConfig, store: dist.Store, rank: int, device: torch.device) -> None:
    """Opens the process group, once all ranks have called this. After `leave` it can be again."""
    sharing = config.context_parallel_config
    ranks = sharing.ulysses_degree
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        BACKENDS[device.type], store=store, rank=rank, world_size=ranks, timeout=PATIENCE
    )
    mesh = init_device_mesh(device.type, sharing.mesh_shape, mesh_dim_names=sharing.mesh_dim_names)
    config.setup(rank, ranks, device, mesh=mesh)


def leave(device: torch.device) -> None:
    """Closes the process group, whatever the others do."""
    if dist.is_initialized():
        if device.type == "cuda":
            # What waits on the GPU for a rank that is gone would be waited for.
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()


def describe(value: Any, tensors: list[torch.Tensor]) -> Any:
    """An argument as JSON holds it; what its tensors hold is added to `tensors`, to be sent."""
    if isinstance(value, torch.Tensor):
        tensors.append(value.contiguous())
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple):
        return [describe(each, tensors) for each in value]
    return value


def allocate(described: Any, device: torch.device, tensors: list[torch.Tensor]) -> Any:
    """The argument of a `describe`, with empty tensors, which are added to `tensors`."""
    if isinstance(described, dict):
        dtype = getattr(torch, described["dtype"])
        tensors.append(torch.empty(described["shape"], dtype=dtype, device=device))
        return tensors[-1]
    if isinstance(described, list):
        return tuple(allocate(each, device, tensors) for each in described)
    return described


class Followers:
    """The processes of the further devices, seen from rank 0.

    A call that fails on one rank leaves the others in the middle of theirs, which nothing gets
    them out of. So all are ended then, and the next call starts new ones.
    """

    def __init__(
        self,
        transformer: DreamOTransformer2DModel,
        bundle: Path,
        dtype: torch.dtype,
        devices: list[torch.device],
    ) -> None:
        """Starts them; the first of `devices` is rank 0's, where the transformer is.

        Raises:
            UserError: one of them ended before it was ready, or this process has others.
        """
        self.transformer = transformer
        self.bundle, self.dtype, self.devices = bundle, dtype, devices
        self.processes: list[subprocess.Popen[str]] = []
        self.config = share_tokens(transformer, len(devices))
        self.store: dist.TCPStore | None = None
        # One thread makes the calls, one after another. Where a request is cancelled by an
        # exception in its own thread, the call goes on to its end, and stays in step.
        self.thread = ThreadPoolExecutor(1, "parallel")
        registry = HookRegistry.check_if_exists_or_initialize(transformer)
        registry.register_hook(FollowedCalls(self), "followed_calls")
        self.thread.submit(self._start).result()

    def call(self, forward: Callable[..., torch.Tensor], arguments: dict[str, Any]) -> torch.Tensor:
        """What `forward` returns for the arguments, computed by all devices.

        Raises:
            UserError: a follower has ended.
            torch.OutOfMemoryError: a device's memory does not hold its part.
        """
        return self.thread.submit(self._call, forward, arguments).result()

    def close(self) -> None:
        """Ends the followers, which this process's end does too; a further call starts them."""
        self.thread.submit(self._stop).result()

    def _start(self) -> None:
        begun = time.perf_counter()
        if dist.is_initialized():
            raise UserError("this process is in a process group already, and can be in one only")
        atexit.register(self._stop)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.store = dist.TCPStore(
            "127.0.0.1", port, is_master=True, timeout=PATIENCE, wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )  # fmt: skip
        # Else NCCL would end this process, and the server with it, when a follower ends.
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
        paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
        dtype = str(self.dtype).removeprefix("torch.")
        try:
            for rank, device in enumerate(self.devices[1:], start=1):
                process = subprocess.Popen(
                    [sys.executable, "-m", "dream_o.parallel"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                )
                self.processes.append(process)
                told = {
                    "bundle": str(self.bundle.resolve()), "dtype": dtype, "device": str(device),
                    "rank": rank, "ranks": len(self.devices), "port": port, "parent": os.getpid(),
                }  # fmt: skip
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
            len(self.devices), time.perf_counter() - begun,
        )  # fmt: skip

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
        # NCCL waits for a rank that is gone without end, and whoever then reads from the GPU too.
        if self.devices[0].type != "cuda":
            return
        done = torch.cuda.Event()
        done.record()
        while not done.query():
            if any(process.poll() is not None for process in self.processes):
                raise ConnectionError("a follower ended in a call")
            time.sleep(POLL_SECONDS)

    def _give_up(self, error: Exception) -> NoReturn:
        """Ends all processes and raises what is to be said of an error."""
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
        """The exit codes of the followers that ended by themselves, by rank and device."""
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
    """Hands each call of rank 0's transformer to its followers."""

    def __init__(self, followers: Followers) -> None:
        super().__init__()
        self.followers = followers

    def new_forward(self, module: torch.nn.Module, **arguments: Any) -> torch.Tensor:
        """The arguments of `DreamOTransformer2DModel.forward`, by name."""
        if arguments.get("reference_tokens") is None:
            # An empty table cannot be split.
            arguments["rotary"] = (*arguments["rotary"][:2], None)
        return self.followers.call(self.fn_ref.original_forward, arguments)


def load_transformer(bundle: Path, dtype: torch.dtype) -> DreamOTransformer2DModel:
    """The transformer of a bundle whose files rank 0 has checked, on the CPU."""
    transformer = DreamOTransformer2DModel.from_pretrained(
        bundle / "transformer", torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    if read_bundle(bundle).precision in KINDS:
        set_product_dtype(transformer, dtype)
    return transformer.eval()


def follow() -> None:
    """A follower's life: what it is comes on the first line of standard input, then the calls."""
    # Ctrl-C is for rank 0 to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Standard output is for one word; what else is printed goes where the log goes.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(told["parent"],), daemon=True).start()
    device = torch.device(told["device"])
    transformer = load_transformer(Path(told["bundle"]), torch_dtype(told["dtype"])).to(device)
    config = share_tokens(transformer, told["ranks"])
    store = dist.TCPStore("127.0.0.1", told["port"], is_master=False, timeout=PATIENCE)
    print("ready", file=answers, flush=True)
    join(config, store, told["rank"], device)
    with torch.no_grad(), suited_threads(transformer):
        for line in sys.stdin:
            tensors: list[torch.Tensor] = []
            arguments = {
                name: allocate(value, device, tensors) for name, value in json.loads(line).items()
            }
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
            transformer(**arguments)


def _end_with(parent: int) -> None:
    # In the middle of a call nobody reads the standard input that a parent's end closes.
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def main() -> NoReturn:
    """Follows until rank 0 closes standard input; the exit code is OUT_OF_MEMORY for just that."""
    code = 0
    try:
        follow()
    except torch.OutOfMemoryError:
        code = OUT_OF_MEMORY
    except Exception:
        traceback.print_exc()
        code = 1
    # Not sys.exit: leaving a process group in order takes those who are no longer there.
    os._exit(code)


if __name__ == "__main__":
    main()
