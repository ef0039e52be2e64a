"""How fast against how exact: the modes of DREAM_O_SPEED.

`exact` is the eager pipeline: the same bytes on every run. `compiled` compiles the repeated blocks,
fuses their projections and takes the fastest attention that the machine has. `fast` is `compiled`
and leaves steps of the transformer out, whose velocity is extrapolated from the steps before; on an
quantised bundle it multiplies in eight bits, too.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dream_o.blocks import DoubleBlock, SingleBlock, double_block, last_block, single_block
from dream_o.errors import SettingError, UserError
from dream_o.library_internals import execution_device, has_triton
from dream_o.runtime.attention_backend import NATIVE, keep_attention, kept_attention, set_attention
from dream_o.runtime.layers import fuse_projections, use_eight_bit_products, use_plain_weights
from dream_o.runtime.offload import MOVES_TRANSFORMER
from dream_o.step_reuse import enable_step_reuse
from dream_o.transformer import DreamOTransformer2DModel

logger = logging.getLogger(__name__)

MODES = ("exact", "compiled", "fast")

# Which steps `fast` computes beside the last: the first ones, where the picture is decided, then
# one in so many. Chosen from the curve of `script/bench quality`: docs/speed.md.
COMPUTED_FIRST, COMPUTED_EVERY = 2, 2


class NotCompiledError(UserError):
    """The blocks cannot be compiled on this machine."""


def choose_speed(setting: str, device: torch.device) -> str:
    """The mode that DREAM_O_SPEED names; `auto` is `compiled` on CUDA and `exact` elsewhere.

    Where a CUDA machine cannot compile, `auto` is `exact`, and the log says why.

    Args:
        setting: `auto` or one of MODES.
        device: that the blocks run on.

    Raises:
        SettingError: a mode that this machine cannot run.
    """
    lacking = _lacking(device)
    if setting == "auto":
        if device.type == "cuda" and lacking:
            logger.warning("blocks are not compiled: that needs %s", lacking)
        return "compiled" if device.type == "cuda" and not lacking else "exact"
    if setting != "exact" and lacking:
        raise SettingError("DREAM_O_SPEED", setting, f"needs {lacking}; use auto or exact")
    return setting


def _lacking(device: torch.device) -> str:
    """What the compiler of blocks needs and this machine lacks; empty where it has all."""
    if device.type == "cpu":
        found = shutil.which(os.environ.get("CXX") or "g++")
        return "" if found else "a C++ compiler (g++)"
    if device.type != "cuda":
        return f"a compiler for the device {device}"
    if not has_triton():
        return "triton, or a GPU that it knows"
    compilers = (os.environ.get("CC") or "gcc", "clang", "cc")
    return "" if any(map(shutil.which, compilers)) else "a C compiler (gcc)"


def prepare_blocks(
    transformer: DreamOTransformer2DModel, mode: str, plan: str, device: torch.device
) -> None:
    """Gives a transformer that is still on the CPU the layers that a mode computes with.

    Args:
        transformer: its blocks change; in `exact` they stay as they are.
        mode: one of MODES.
        plan: of `dream_o.runtime.offload`; projections are fused where the transformer is not
            moved.
        device: that it will compute on.
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
    """Makes a pipeline that is on its device run in a mode.

    Args:
        pipeline: a DreamOPipeline, after `prepare_blocks`.
        mode: one of MODES.
        warm_up: runs the pipeline as requests will.

    Raises:
        SettingError: compiled code cannot be kept.
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
        logger.warning("attention %s does not compile here, torch's own is used", backend.value)
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
    """Undoes `apply_speed` where the blocks did not compile, so that they compute as in `exact`."""
    set_attention(pipeline.transformer, NATIVE)
    pipeline.vae.to(memory_format=torch.contiguous_format)
    _set_functions(pipeline.transformer, double_block, single_block, last_block)


def _problem(warm_up: Callable[[], None]) -> Exception | None:
    """What the compiler says; want of memory is none of its."""
    try:
        warm_up()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return error
    return None


def keep_compiled() -> Path:
    """The folder of compiled code, TORCHINDUCTOR_CACHE_DIR (`dream_o` gives it a default).

    Raises:
        SettingError: it is not there and cannot be made, or cannot be written to.
    """
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise SettingError(
            "TORCHINDUCTOR_CACHE_DIR",
            str(folder),
            "is not a folder that can be written to; name one",
        )
    return folder


def compile_blocks(transformer: DreamOTransformer2DModel) -> None:
    """Compiles the three block functions: one graph each, for all blocks and lengths."""
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
