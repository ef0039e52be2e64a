"""The tokens of a transformer's call, shared among processes, and its arguments on their way."""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.context_parallel import apply_context_parallel
from torch.distributed.device_mesh import init_device_mesh

from dream_o.library_internals import (
    ParallelConfig,
    abort_process_group,
    context_parallel_inputs,
    gather_size_by_comm,
    parallel_group,
    set_parallel_config,
)
from dream_o.transformer import DreamOTransformer2DModel

# The sizes of uneven parts are told over gloo: on NCCL the GPU would have to be waited for.
BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}

# How long a process waits for another in the middle of a call, should that one hang.
PATIENCE = timedelta(minutes=10)
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
        group = parallel_group(self.config)
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
    set_parallel_config(transformer, config)
    apply_context_parallel(transformer, sharing, {"": context_parallel_inputs(transformer)})
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
            abort_process_group()
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
