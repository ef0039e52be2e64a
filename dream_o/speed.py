"""How fast against how exact: the modes of DREAM_O_SPEED.

`exact` is the eager pipeline: the same bytes on every run. `compiled` compiles the repeated blocks,
fuses their projections and takes the fastest attention that the machine has. `fast` is `compiled`
and leaves steps of the transformer out, whose velocity is extrapolated from the steps before.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import TaylorSeerCacheConfig
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from dream_o.blocks import DoubleBlock, SingleBlock, double_block, last_block, single_block
from dream_o.errors import SettingError
from dream_o.transformer import DreamOTransformer2DModel

logger = logging.getLogger(__name__)

MODES = ("exact", "compiled", "fast")

# Which steps `fast` computes: the first ones, where the picture is decided, then one in so many.
# Chosen from docs/benchmarks/quality.md.
COMPUTED_FIRST, COMPUTED_EVERY = 3, 2

# Attention is tried on this many tokens, and may differ from torch's own by this share (L2): a few
# times the dtype's rounding.
TRIAL_TOKENS: Mapping[str, int] = {"cuda": 4608, "cpu": 768}
TRIAL_RUNS = 3
TRIAL_ERROR: Mapping[torch.dtype, float] = {
    torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3
}  # fmt: skip
# Not tried: what downloads its kernel, what rounds more than its dtype, what needs a mask or
# another layout, and other devices' own.
NOT_TRIED = ("hub", "sage", "flex", "varlen", "npu", "xla", "math")


def choose_speed(setting: str, device: torch.device) -> str:
    """The mode that DREAM_O_SPEED names; `auto` is `compiled` on CUDA and `exact` elsewhere.

    Raises:
        SettingError: a mode that this machine cannot run.
    """
    mode = ("compiled" if device.type == "cuda" else "exact") if setting == "auto" else setting
    if mode != "exact" and device.type == "mps":
        raise SettingError("DREAM_O_SPEED", setting, "auto or exact on the device mps")
    if mode != "exact" and device.type == "cpu" and not _compiler():
        raise SettingError(
            "DREAM_O_SPEED", setting, "auto or exact on a machine without a C++ compiler (g++)"
        )
    return mode


def _compiler() -> str | None:
    named = (os.environ.get("CXX", ""), "g++", "clang++")
    return next(filter(None, map(shutil.which, named)), None)


def apply_speed(pipeline: Any, mode: str, plan: str, warm_up: Callable[[], None]) -> None:
    """Makes a pipeline that is on its device run in a mode.

    Args:
        pipeline: a DreamOPipeline.
        mode: one of MODES.
        plan: of `dream_o.offload`; projections are fused where the weights stay in place.
        warm_up: runs the pipeline once with and once without references, as requests will.
    """
    if mode == "exact":
        return
    begun = time.perf_counter()
    cache = keep_compiled()
    transformer = pipeline.transformer
    if plan == "none":
        fuse_projections(transformer)
    pipeline.vae.to(memory_format=torch.channels_last)
    backend = choose_attention(transformer, pipeline.dtype, pipeline._execution_device)
    compile_blocks(transformer)
    if mode == "fast":
        reuse_steps(transformer)
    warm_up()
    logger.info(
        "%s: attention %s, compiled and warmed up in %.1f s; compiled code is kept in %s",
        mode, backend, time.perf_counter() - begun, cache.name,
    )  # fmt: skip


def reuse_steps(
    transformer: DreamOTransformer2DModel, first: int = COMPUTED_FIRST, every: int = COMPUTED_EVERY
) -> None:
    """Leaves steps out: their velocity is the last computed one and its change a step.

    Which steps are left out is known beforehand (step 0 to `first` are computed, then one in
    `every`), so nothing waits for a decision of the device.
    """
    transformer.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=every,
            # The step after the last of these is always left out.
            disable_cache_before_step=first,
            max_order=1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
    )


def keep_compiled() -> Path:
    """The folder of compiled code: TORCHINDUCTOR_CACHE_DIR, or one that outlives the process."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    usual = str(caches / "dream-o-compiled")
    folder = Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", usual))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fuse_projections(transformer: DreamOTransformer2DModel) -> None:
    """Makes one matrix of each attention's three, of weights that are not quantised.

    The single matrices become parts of the one, so that no memory is taken twice.
    """
    for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        for block in blocks:
            attention: Any = block.attn
            if type(attention.to_q.weight.data) is not torch.Tensor:
                continue
            with torch.no_grad():
                attention.fuse_projections()
            _share(attention.to_qkv, attention.to_q, attention.to_k, attention.to_v)
            if hasattr(attention, "to_added_qkv"):
                _share(
                    attention.to_added_qkv,
                    attention.add_q_proj, attention.add_k_proj, attention.add_v_proj,
                )  # fmt: skip


def _share(whole: torch.nn.Linear, *parts: torch.nn.Linear) -> None:
    for name in ("weight", "bias"):
        pieces = getattr(whole, name).data.chunk(len(parts))
        for part, piece in zip(parts, pieces, strict=True):
            getattr(part, name).data = piece


def choose_attention(
    transformer: DreamOTransformer2DModel, dtype: torch.dtype, device: torch.device
) -> str:
    """Sets the fastest attention backend that agrees with torch's own here; returns its name."""
    config = transformer.config
    tokens = TRIAL_TOKENS.get(device.type, TRIAL_TOKENS["cpu"])
    shape = (1, tokens, config.num_attention_heads, config.attention_head_dim)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(shape, generator=generator).to(device=device, dtype=dtype) for _ in range(3)
    )
    # The last block asks for fewer tokens than it sees.
    inputs = query[:, : tokens // 4 * 3], key, value
    native = AttentionBackendName.NATIVE
    wanted = dispatch_attention_fn(*inputs, backend=native)
    seconds: dict[AttentionBackendName, float] = {}
    for backend in AttentionBackendName:
        if any(part in backend.value for part in NOT_TRIED):
            continue
        try:
            error = (dispatch_attention_fn(*inputs, backend=backend) - wanted).float().norm()
            if error <= TRIAL_ERROR[dtype] * wanted.float().norm():
                run = partial(dispatch_attention_fn, *inputs, backend=backend)
                seconds[backend] = _seconds(run)
        except Exception as reason:  # whatever a backend says that does not run here
            logger.debug("attention %s: %s", backend.value, reason)
    best = min(seconds, key=lambda backend: seconds[backend], default=native)
    # torch's own stays where another is not clearly faster: it is the best tested.
    if seconds.get(native, 0) < 1.03 * seconds.get(best, 0):
        best = native
    transformer.set_attention_backend(best.value)
    return best.value


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIAL_RUNS):
        begun = time.perf_counter()
        run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times)


def compile_blocks(transformer: DreamOTransformer2DModel) -> None:
    """Compiles the three block functions: one graph each, for all blocks and lengths."""
    double, single, last = (
        torch.compile(function, dynamic=True, fullgraph=True)
        for function in (double_block, single_block, last_block)
    )
    for block in transformer.modules():
        if isinstance(block, DoubleBlock):
            block.compute = double
        elif isinstance(block, SingleBlock):
            block.compute, block.compute_part = single, last
