"""The modes of DREAM_O_SPEED, which trade exactness for speed.

`exact` is the eager pipeline: every run gives the same bytes. `compiled` compiles the repeated
blocks, fuses their projections and uses the machine's fastest attention. `fast` is `compiled`, but
skips the transformer in some steps and extrapolates their velocity from the steps before; with a
quantized bundle it also multiplies in eight bits.
"""

import logging
import os
import shutil
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dream_o.blocks import DoubleBlock, SingleBlock, double_block, last_block, single_block
from dream_o.errors import SettingError, UserError
from dream_o.library_internals import execution_device, has_triton, quick_tracing
from dream_o.runtime.attention_backend import NATIVE, keep_attention, kept_attention, set_attention
from dream_o.runtime.layers import fuse_projections, use_eight_bit_products, use_plain_weights
from dream_o.runtime.offload import MOVES_TRANSFORMER
from dream_o.step_reuse import enable_step_reuse
from dream_o.transformer import DreamOTransformer2DModel

logger = logging.getLogger(__name__)

MODES = ("exact", "compiled", "fast")

# `fast` computes the last step, the first COMPUTED_FIRST steps, which decide the composition, and
# then one in COMPUTED_EVERY. Both come from the curve of `script/bench quality`: docs/speed.md.
COMPUTED_FIRST, COMPUTED_EVERY = 2, 2

# By kind of device: the variable that names the compiler, the names that are looked for, and what
# it is called. CUDA's kernels need triton as well.
COMPILERS = {
    "cpu": ("CXX", ("g++",), "a C++ compiler (g++)"),
    "cuda": ("CC", ("gcc", "clang", "cc"), "a C compiler (gcc)"),
}


class NotCompiledError(UserError):
    """The blocks cannot be compiled on this machine."""


def choose_speed(setting: str, device: torch.device) -> str:
    """The mode that DREAM_O_SPEED names; `auto` is `compiled` on CUDA and `exact` elsewhere.

    On a CUDA machine that cannot compile, `auto` is `exact`, and the log says why.

    Args:
        setting: `auto` or one of MODES.
        device: the device on which the blocks run.

    Raises:
        SettingError: this machine cannot run the mode.
    """
    lacking = _lacking(device)
    if setting == "auto":
        if device.type == "cuda" and lacking:
            logger.warning("the blocks are not compiled, which needs %s", lacking)
        return "compiled" if device.type == "cuda" and not lacking else "exact"
    if setting != "exact" and lacking:
        raise SettingError("DREAM_O_SPEED", setting, f"needs {lacking}; use auto or exact")
    return setting


def _lacking(device: torch.device) -> str:
    """What this machine lacks to compile the blocks; empty if nothing."""
    if device.type not in COMPILERS:
        return f"a compiler for the device {device}"
    if device.type == "cuda" and not has_triton():
        return "triton and a GPU that it supports"
    variable, names, compiler = COMPILERS[device.type]
    if not any(map(shutil.which, (os.environ.get(variable) or names[0], *names[1:]))):
        return compiler
    # The code that loads a kernel is an extension of Python, for both devices.
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return "" if headers.is_file() else "Python's headers (python3-dev)"


def prepare_blocks(
    transformer: DreamOTransformer2DModel, mode: str, plan: str, device: torch.device
) -> None:
    """Replaces layers of a transformer that is still on the CPU with those that a mode needs.

    Args:
        transformer: the transformer; `exact` does not change it.
        mode: one of MODES.
        plan: one of PLANS; projections are fused only if no blocks are streamed.
        device: the device on which it will run.
    """
    if mode == "exact":
        return
    quantized = use_plain_weights(transformer)
    if mode == "fast" and quantized:
        layers = use_eight_bit_products(transformer, device)
        logger.info("fast: %d of %d layers multiply in eight bits", layers, quantized)
    if plan not in MOVES_TRANSFORMER:
        fuse_projections(transformer, device)


def apply_speed(pipeline: Any, mode: str, warm_up: Callable[[], None]) -> None:
    """Sets the mode of a pipeline that is on its device.

    Args:
        pipeline: a DreamOPipeline, after `prepare_blocks`.
        mode: one of MODES.
        warm_up: runs the pipeline as requests do.

    Raises:
        SettingError: compiled code cannot be stored.
        NotCompiledError: the blocks cannot be compiled.
    """
    if mode == "exact":
        return
    begun = time.perf_counter()
    cache = keep_compiled()
    transformer = pipeline.transformer
    pipeline.vae.to(memory_format=torch.channels_last)
    place = pipeline.dtype, execution_device(pipeline)
    backend = kept_attention(cache, transformer, *place)
    compile_blocks(transformer)
    if mode == "fast":
        enable_step_reuse(transformer, COMPUTED_FIRST, COMPUTED_EVERY)
    problem = _problem(warm_up)
    if problem and backend != NATIVE:
        logger.warning("attention %s does not compile here; torch's own is used", backend.value)
        backend = set_attention(transformer, NATIVE)
        problem = _problem(warm_up)
        if not problem:
            keep_attention(cache, transformer, *place, backend)
    if problem:
        raise NotCompiledError(
            f"the blocks do not compile here ({type(problem).__name__}); use DREAM_O_SPEED=exact"
        ) from problem
    logger.info(
        "%s: attention %s, compiled and warmed up in %.1f s; compiled code is kept in %s",
        mode,
        backend.value,
        time.perf_counter() - begun,
        cache,
    )


def use_eager_blocks(pipeline: Any) -> None:
    """Undoes `apply_speed` after the blocks did not compile, so that they run as in `exact`."""
    set_attention(pipeline.transformer, NATIVE)
    pipeline.vae.to(memory_format=torch.contiguous_format)
    _set_functions(pipeline.transformer, double_block, single_block, last_block)


def _problem(warm_up: Callable[[], None]) -> Exception | None:
    """Compiles the blocks by warming up; returns the error, but raises out-of-memory errors."""
    try:
        with quick_tracing():
            warm_up()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return error
    return None


def keep_compiled() -> Path:
    """Creates and returns the folder of compiled code, TORCHINDUCTOR_CACHE_DIR.

    `dream_o` sets a default for the variable.

    Raises:
        SettingError: the folder cannot be created or written to.
    """
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise SettingError(
            "TORCHINDUCTOR_CACHE_DIR",
            str(folder),
            "is not a writable folder; name one",
        )
    return folder


def compile_blocks(transformer: DreamOTransformer2DModel) -> None:
    """Compiles the three block functions to one graph each, for all blocks and token counts."""
    _set_functions(
        transformer,
        *(
            torch.compile(function, dynamic=True, fullgraph=True)
            for function in (double_block, single_block, last_block)
        ),
    )


def _set_functions(
    transformer: DreamOTransformer2DModel,
    double: Callable[..., Any],
    single: Callable[..., Any],
    last: Callable[..., Any],
) -> None:
    for block in transformer.modules():
        if isinstance(block, DoubleBlock):
            block.compute = double
        elif isinstance(block, SingleBlock):
            block.compute, block.compute_part = single, last
