"""Every private name of torch, diffusers, transformers, torchao, Cog and Gradio that is used here.

A new release of one of these libraries can change these names without notice. Each entry states
the version it was checked with; no other module uses such a name.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist

# diffusers 0.42.1: the configuration of a process in context parallelism has no public name.
from diffusers.models._modeling_parallel import (
    ContextParallelInput,
    ContextParallelOutput,
    ParallelConfig,
    gather_size_by_comm,
)

# torch 2.13.0: whether triton is installed and supports this GPU.
from torch.utils._triton import has_triton

# Library classes and functions that other modules import from here.
__all__ = [
    "ContextParallelInput",
    "ContextParallelOutput",
    "ParallelConfig",
    "gather_size_by_comm",
    "has_triton",
]


def attention_settings(attention: Any) -> tuple[Any, Any]:
    """The backend and the parallel configuration of a diffusers attention module.

    diffusers 0.42.1 stores the choices of `set_attention_backend` and `enable_parallelism` on each
    attention processor.
    """
    processor = attention.processor
    return processor._attention_backend, processor._parallel_config


def set_attention_backend(model: torch.nn.Module, backend: Any) -> None:
    """Sets one model's attention backend (diffusers 0.42.1).

    diffusers' `set_attention_backend` also changes the default for every other model.
    """
    for module in model.modules():
        processor: Any = getattr(module, "processor", None)
        if hasattr(processor, "_attention_backend"):
            processor._attention_backend = backend


def set_parallel_config(model: torch.nn.Module, config: ParallelConfig) -> None:
    """Sets the parallel configuration of one model's attention (diffusers 0.42.1)."""
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


def step_cache_config(model: Any) -> Any:
    """The configuration of a model's step cache, None without one (diffusers 0.42.1)."""
    return model._cache_config


def reset_step_cache(model: Any) -> None:
    """Clears a model's step cache, so that a request starts afresh (diffusers 0.42.1)."""
    model._reset_stateful_cache()


def execution_device(pipeline: Any) -> torch.device:
    """The device that a pipeline computes on, with or without offloading (diffusers 0.42.1)."""
    device: torch.device = pipeline._execution_device
    return device


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether calling a module runs more than its class's `forward` (torch 2.13.0)."""
    hooks: Any = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or "forward" in vars(module)


def onednn_linear(
    tokens: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *then: object
) -> torch.Tensor:
    """oneDNN's linear layer with a fused activation (torch 2.13.0).

    torch's compiler uses this operator for frozen weights; `then` gives the activation, its scalars
    and its algorithm.
    """
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, *then)
    return product


def int8_product(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """`(n, k)` int8 by `(k, m)` int8 to int32 (torch 2.13.0: `_int_mm`).

    On CUDA n must be above 16, and k and m multiples of 8.
    """
    return torch._int_mm(rows, columns)


def float8_product(
    rows: torch.Tensor,
    columns: torch.Tensor,
    row_scales: torch.Tensor,
    column_scales: torch.Tensor,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`(n, k)` by `(k, m)`, both float8_e4m3fn, to `(n, m)` (torch 2.13.0: `_scaled_mm`).

    Args:
        row_scales: `(n, 1)` float32.
        column_scales: `(1, m)` float32.
        bias: `(m,)` in `dtype`, or None.
        dtype: of the product, bfloat16 or float16; sums are float32.
    """
    return torch._scaled_mm(
        rows,
        columns,
        scale_a=row_scales,
        scale_b=column_scales,
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=True,
    )


def quick_tracing() -> AbstractContextManager[None]:
    """Within the body, torch's compiler traces a block in less than half the time (torch 2.13.0).

    By default it makes each Python float, such as the epsilon of a norm, an input of the compiled
    code; when it finds that the norm needs a constant, it traces the function again. It also keeps
    the shape of every result. For sizes that vary this takes longer than computing the shape, and
    few operations of a block are repeated.
    """
    import torch._dynamo.config  # 1.5 s that only modes with compiled blocks need

    return torch._dynamo.config.patch(specialize_float=True, fake_tensor_cache_enabled=False)


def abort_process_group() -> None:
    """Ends NCCL's process group without waiting for the other ranks (torch 2.13.0)."""
    dist.distributed_c10d._abort_process_group()


def downloaded_path(url_path: Any) -> Any:
    """The file that a `cog.URLPath` was downloaded to, None before (Cog 0.23.1)."""
    return url_path._path


def set_downloaded_path(url_path: Any, path: Any) -> None:
    """Says where a `cog.URLPath` was downloaded to, so that Cog deletes the file (Cog 0.23.1)."""
    url_path._path = path


def set_mcp_address(page: Any, address: str) -> None:
    """Sets the address at which a mounted page's MCP server reaches the page (Gradio 6.31.0)."""
    page.mcp_server_obj._local_url = address


async def leave_queue(page: Any, tab: str, concurrency_id: str) -> bool:
    """Removes a browser tab's events with one `concurrency_id` from the page's queue.

    Each event is completed without an update, as by Gradio's route `/cancel`, which removes one
    event (Gradio 6.31.0). Must run in the event loop of the server.

    Returns:
        Whether there were any events.
    """
    from gradio.server_messages import ProcessCompletedMessage

    queue = page._queue
    events = _waiting(page, concurrency_id)
    waiting = [event for event in events if event.session_hash == tab]
    for event in waiting:
        await queue.remove_from_queue(event._id)
        kept = {"data": [{"__type__": "update"} for _ in event.fn.outputs]}
        done = ProcessCompletedMessage(output=kept, success=True, event_id=event._id)
        queue.pending_messages_per_session[tab].put_nowait(done)
    return bool(waiting)


def queued_inputs(page: Any) -> list[Any]:
    """The inputs of each event that waits or runs on a page with a queue (Gradio 6.31.0)."""
    queues = list(page._queue.event_queue_per_concurrency_id)
    waiting = [event for each in queues for event in _waiting(page, each)]
    running = [event for events in page._queue.active_jobs if events for event in events]
    return [event.data.data for event in (*waiting, *running) if event.data]


def _waiting(page: Any, concurrency_id: str) -> list[Any]:
    """The events of one `concurrency_id` that wait in a page's queue (Gradio 6.31.0)."""
    events = page._queue.event_queue_per_concurrency_id.get(concurrency_id)
    return list(events.queue) if events else []
