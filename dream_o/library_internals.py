"""Every private name of torch, diffusers, transformers and torchao that this package uses.

A release of one of these libraries can change what is here without notice. Each entry names the
version in which it was read; nothing outside this module touches such a name.
"""

from typing import Any

import torch
import torch.distributed as dist

# diffusers 0.42.1: context parallelism has no public name for its configuration of a process.
from diffusers.models._modeling_parallel import (
    ContextParallelInput,
    ContextParallelOutput,
    ParallelConfig,
    gather_size_by_comm,
)

# torch 2.13.0: whether triton is installed and knows this GPU.
from torch.utils._triton import has_triton

# Classes and functions of the libraries that other modules import from here.
__all__ = [
    "ContextParallelInput",
    "ContextParallelOutput",
    "ParallelConfig",
    "gather_size_by_comm",
    "has_triton",
]


def attention_settings(attention: Any) -> tuple[Any, Any]:
    """The backend and the parallel configuration of a diffusers attention module.

    diffusers 0.42.1 keeps on each attention processor what `set_attention_backend` and
    `enable_parallelism` choose.
    """
    processor = attention.processor
    return processor._attention_backend, processor._parallel_config


def set_attention_backend(model: torch.nn.Module, backend: Any) -> None:
    """Gives one model an attention backend (diffusers 0.42.1).

    diffusers' own `set_attention_backend` changes the default of every other model too.
    """
    for module in model.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_attention_backend"):
            processor._attention_backend = backend


def set_parallel_config(model: torch.nn.Module, config: ParallelConfig) -> None:
    """Gives one model's attention a parallel configuration (diffusers 0.42.1)."""
    for module in model.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_parallel_config"):
            processor._parallel_config = config


def parallel_group(sharing: Any) -> dist.ProcessGroup:
    """The process group of a ContextParallelConfig that was set up (diffusers 0.42.1)."""
    group: dist.ProcessGroup = sharing._flattened_mesh.get_group()
    return group


def context_parallel_inputs(transformer: Any) -> dict[str, Any]:
    """How a model's inputs are split over devices: its `_cp_plan` (diffusers 0.42.1)."""
    inputs: dict[str, Any] = transformer._cp_plan[""]
    return inputs


def hooks_of(module: torch.nn.Module) -> list[Any]:
    """The diffusers hooks of one module (diffusers 0.42.1: `HookRegistry`)."""
    registry = getattr(module, "_diffusers_hook", None)
    return list(registry.hooks.values()) if registry else []


def reset_step_cache(model: Any) -> None:
    """Forgets what a model's step cache keeps of the request before (diffusers 0.42.1)."""
    model._reset_stateful_cache()


def execution_device(pipeline: Any) -> torch.device:
    """Where a pipeline computes, offloading considered (diffusers 0.42.1)."""
    device: torch.device = pipeline._execution_device
    return device


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether calling a module runs more than its class's `forward` (torch 2.13.0)."""
    hooks: Any = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or "forward" in vars(module)


def onednn_linear(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *then: object
) -> torch.Tensor:
    """oneDNN's product with what follows it (torch 2.13.0).

    This is the operator that torch's compiler calls where weights are frozen; `then` names the
    activation, its scalars and its algorithm.
    """
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, *then)
    return product


def abort_process_group() -> None:
    """Ends NCCL's process group without waiting for the other ranks (torch 2.13.0)."""
    dist.distributed_c10d._abort_process_group()
