"""Splits the tokens of the transformer over processes, and describes a call's arguments."""

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

# The sizes of uneven parts are exchanged over gloo, because NCCL would have to wait for the GPU.
BACKENDS = {"cuda": "cpu:gloo,cuda:nccl", "cpu": "gloo"}

# How long a process waits during a call for another one that hangs.
PATIENCE = timedelta(minutes=10)
# The exit code of a follower whose device ran out of memory.
OUT_OF_MEMORY = 3


class GatherImage(ModelHook):
    """Gathers all image tokens on every rank.

    diffusers' own hook gathers parts of different lengths, which gloo does not support, so this one
    pads them.
    """

    def __init__(self, config: ContextParallelConfig) -> None:
        super().__init__()
        self.config = config

    def post_forward(self, module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
        """Gathers `(batch, part of the tokens, channels)` into `(batch, tokens, channels)`."""
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
    """Makes the transformer compute one rank's part of the tokens and return all of them.

    The transformer can be called after the returned configuration has been passed to `join`.
    """
    sharing = ContextParallelConfig(ulysses_degree=ranks, ulysses_anything=True)
    config = ParallelConfig(context_parallel_config=sharing)
    set_parallel_config(transformer, config)
    apply_context_parallel(transformer, sharing, {"": context_parallel_inputs(transformer)})
    registry = HookRegistry.check_if_exists_or_initialize(transformer.proj_out)
    registry.register_hook(GatherImage(sharing), "gather_image")
    return config


def join(config: ParallelConfig, store: dist.Store, rank: int, device: torch.device) -> None:
    """Joins the process group; waits for all ranks. It can be joined again after `leave`."""
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
    """Leaves the process group, even if other ranks have failed."""
    if dist.is_initialized():
        if device.type == "cuda":
            # An orderly exit would wait for GPU work that waits for a rank that has ended.
            abort_process_group()
        else:
            dist.destroy_process_group()


def describe(value: Any, tensors: list[torch.Tensor]) -> Any:
    """An argument as JSON values; its tensors are appended to `tensors`, to be sent separately."""
    if isinstance(value, torch.Tensor):
        tensors.append(value.contiguous())
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple):
        return [describe(each, tensors) for each in value]
    return value


def allocate(described: Any, device: torch.device, tensors: list[torch.Tensor]) -> Any:
    """The argument that `describe` described, with empty tensors, also appended to `tensors`."""
    if isinstance(described, dict):
        dtype = getattr(torch, described["dtype"])
        tensors.append(torch.empty(described["shape"], dtype=dtype, device=device))
        return tensors[-1]
    if isinstance(described, list):
        return tuple(allocate(each, device, tensors) for each in described)
    return described
