"""Chooses the attention backend: the fastest in a trial whose results agree with torch's own.

The choice is stored beside the compiled code. Otherwise two backends of nearly the same speed could
alternate between starts, and the last bits of the images would change with them.
"""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

from dream_o.atomic import atomic_write
from dream_o.library_internals import set_attention_backend
from dream_o.stopwatch import Stopwatch
from dream_o.transformer import DreamOTransformer2DModel

logger = logging.getLogger(__name__)

NATIVE = AttentionBackendName.NATIVE
KEPT_FILE = "dream-o-attention.json"

# The trial runs attention on this many tokens. Its relative L2 error against torch's own must not
# exceed TRIAL_ERROR, a few times the dtype's rounding.
TRIAL_TOKENS: Mapping[str, int] = {"cuda": 4608, "cpu": 768}
TRIAL_RUNS = 3
TRIAL_ERROR: Mapping[torch.dtype, float] = {
    torch.float32: 1e-5,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}
# Not tried: backends that download their kernel, round more than their dtype, need a mask or
# another layout, or belong to other devices.
NOT_TRIED = ("hub", "sage", "flex", "varlen", "npu", "xla", "math")


def kept_attention(
    folder: Path, transformer: DreamOTransformer2DModel, dtype: torch.dtype, device: torch.device
) -> AttentionBackendName:
    """Sets the backend stored in the folder for this machine, or chooses and stores one."""
    kept = _kept(folder).get(_key(transformer, dtype, device))
    if kept in [backend.value for backend in AttentionBackendName]:
        return set_attention(transformer, AttentionBackendName(kept))
    backend = choose_attention(transformer, dtype, device)
    keep_attention(folder, transformer, dtype, device, backend)
    return backend


def keep_attention(
    folder: Path,
    transformer: DreamOTransformer2DModel,
    dtype: torch.dtype,
    device: torch.device,
    backend: AttentionBackendName,
) -> None:
    """Stores a backend for the next start; if writing fails, the next start tries again."""
    table = _kept(folder) | {_key(transformer, dtype, device): backend.value}
    with suppress(OSError), atomic_write(folder / KEPT_FILE) as file:
        file.write(json.dumps(table, indent=2).encode() + b"\n")


def _kept(folder: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        table = json.loads((folder / KEPT_FILE).read_bytes())
        if isinstance(table, dict):
            return table
    return {}


def _key(transformer: DreamOTransformer2DModel, dtype: torch.dtype, device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    config = transformer.config
    heads = f"{config.num_attention_heads} x {config.attention_head_dim}"
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return f"{name}, {dtype}, {heads}, {versions}"


def choose_attention(
    transformer: DreamOTransformer2DModel, dtype: torch.dtype, device: torch.device
) -> AttentionBackendName:
    """Sets and returns the fastest backend whose results agree with torch's own on this machine."""
    config = transformer.config
    tokens = TRIAL_TOKENS.get(device.type, TRIAL_TOKENS["cpu"])
    shape = (1, tokens, config.num_attention_heads, config.attention_head_dim)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(shape, generator=generator).to(device=device, dtype=dtype) for _ in range(3)
    )
    # The last block has fewer queries than keys.
    inputs = query[:, : tokens // 4 * 3], key, value
    wanted = dispatch_attention_fn(*inputs, backend=NATIVE)
    seconds: dict[AttentionBackendName, float] = {}
    for backend in AttentionBackendName:
        if any(part in backend.value for part in NOT_TRIED):
            continue
        try:
            error = (dispatch_attention_fn(*inputs, backend=backend) - wanted).float().norm()
            if error <= TRIAL_ERROR[dtype] * wanted.float().norm():
                run = partial(dispatch_attention_fn, *inputs, backend=backend)
                seconds[backend] = _seconds(run, device)
        except Exception as reason:  # backends that do not run here raise many kinds of errors
            logger.debug("attention %s: %s", backend.value, reason)
    best = min(seconds, key=lambda backend: seconds[backend], default=NATIVE)
    # torch's own is kept unless another is clearly faster, because it is the best tested.
    if seconds.get(NATIVE, 0) < 1.03 * seconds.get(best, 0):
        best = NATIVE
    return set_attention(transformer, best)


def set_attention(
    transformer: DreamOTransformer2DModel, backend: AttentionBackendName
) -> AttentionBackendName:
    """Sets a transformer's backend and returns it."""
    set_attention_backend(transformer, backend)
    return backend


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(TRIAL_RUNS):
        stopwatch = Stopwatch(device)
        with stopwatch.stage("attention"):
            run()
        times.append(stopwatch.seconds["attention"])
    return min(times)
