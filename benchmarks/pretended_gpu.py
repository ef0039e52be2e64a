"""Pretends a GPU to torch's CUDA build, to see the code that its compiler generates.

Nothing runs on a GPU: tensors are fake, and generated code is read, not called. All private names
of torch 2.13.0 and triton 3.7.1 that this needs are in this module.
"""

import types
from collections.abc import Callable
from typing import Any

import torch
import torch._inductor.config
import torch.cuda.random
import torch.utils._triton
from torch._dynamo import device_interface
from torch._inductor.fx_passes import fuse_attention, pad_mm
from torch._inductor.graph import GraphLowering

NAME = "pretended GPU"
# An H100's properties, from which the compiler chooses the sizes of its kernels.
PROPERTIES = {
    "name": NAME,
    "total_memory": 80 * 10**9,
    "multi_processor_count": 132,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "warp_size": 32,
    "gcnArchName": "",
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 232448,
    "shared_memory_per_multiprocessor": 233472,
    "L2_cache_size": 50 * 2**20,
    "is_integrated": 0,
    "clock_rate": 1_980_000,
    "memory_clock_rate": 2_619_000,
    "memory_bus_width": 5120,
}


class CodeNotRunError(Exception):
    """Raised instead of running the generated code."""


def pretend(capability: tuple[int, int]) -> list[str]:
    """Makes torch see one GPU of this compute capability from here on.

    Returns:
        A list to which the code of every compiled graph is added.
    """
    major, minor = capability
    properties = types.SimpleNamespace(major=major, minor=minor, **PROPERTIES)
    _set_device_answers(properties)
    _set_driver(major * 10 + minor)
    return _collect_code()


def _set_device_answers(properties: types.SimpleNamespace) -> None:
    capability = properties.major, properties.minor
    stream = types.SimpleNamespace(cuda_stream=0, stream_id=0, device_index=0)
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: NAME,
        "is_bf16_supported": lambda *_, **__: properties.major >= 8,
        "synchronize": lambda *_: None,
        "set_device": lambda device: None,
        "current_stream": lambda *_: stream,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
        if hasattr(device_interface.CudaInterface, name):
            setattr(device_interface.CudaInterface, name, staticmethod(answer))
    worker = device_interface.CudaInterface.Worker
    worker.get_device_properties = staticmethod(answers["get_device_properties"])
    worker.current_device = staticmethod(answers["current_device"])
    device_interface.CudaInterface.get_compute_capability = staticmethod(
        lambda device=None: properties.major * 10 + properties.minor
    )
    torch.cuda._lazy_init = lambda: None
    torch.cuda.is_initialized = lambda: False
    torch.cuda._exchange_device = lambda index: 0
    torch.cuda._maybe_exchange_device = lambda index: 0
    torch.cuda._get_device_properties = lambda index: properties
    for module in (torch.cuda, torch.cuda.random):
        module.get_rng_state = lambda *_, **__: torch.zeros(16, dtype=torch.uint8)
        module.set_rng_state = lambda *_, **__: None
    torch.accelerator.is_available = lambda: False
    torch._C._ensureCUDADeviceGuardSet()
    # These compute on the GPU when they are created.
    fuse_attention._sfdp_init = lambda *_, **__: None
    pad_mm._pad_mm_init = lambda *_, **__: None


def _set_driver(architecture: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    torch.utils._triton.has_triton = lambda: True

    class Driver:
        """The parts of a GPU driver that triton uses to generate code."""

        class utils:  # noqa: N801 - triton's name
            """The driver's utilities."""

            @staticmethod
            def get_device_properties(device: int) -> dict[str, int]:
                """The properties that triton reads."""
                return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", architecture, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int = 0) -> int:
            return 0

        def get_device_interface(self) -> Any:
            return torch.cuda

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cuda", 0)

        @staticmethod
        def is_active() -> bool:
            return True

    triton.runtime.driver.set_active(Driver())


def _collect_code() -> list[str]:
    codes: list[str] = []

    def call(*_: object, **__: object) -> None:
        raise CodeNotRunError

    def compile_to_module(graph: Any) -> Any:
        codes.append(graph.codegen()[0].value)
        return types.SimpleNamespace(call=call)

    GraphLowering.compile_to_module = compile_to_module
    torch._inductor.config.force_disable_caches = True
    torch._inductor.config.compile_threads = 1
    return codes
