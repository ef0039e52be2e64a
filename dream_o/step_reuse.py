"""Skipped steps, whose velocity is extrapolated from earlier steps.

diffusers' TaylorSeer cache extrapolates inside the transformer. This module wraps the velocity
function accordingly, so that the denoising loop does not depend on the cache.
"""

import torch
from diffusers import TaylorSeerCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheHook

from dream_o.library_internals import hooks_of, reset_step_cache
from dream_o.sampling import Velocity
from dream_o.transformer import DreamOTransformer2DModel


def enable_step_reuse(transformer: DreamOTransformer2DModel, first: int, every: int) -> None:
    """Computes the first `first` steps, then one in `every`; extrapolates the others linearly.

    Which steps are skipped is known in advance, so the CPU never waits for the device to decide.
    """
    transformer.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=every,
            # The cache always skips the step after the last of these.
            disable_cache_before_step=first,
            max_order=1,
            taylor_factors_dtype=torch.float32,
            use_lite_mode=True,
        )
    )


def reusing_steps(
    transformer: DreamOTransformer2DModel, velocity: Velocity, kind: str, steps: int
) -> Velocity:
    """Wraps `velocity` for a request of `steps` steps; the last step is always computed.

    If step reuse is not enabled on the transformer, `velocity` is returned unchanged.

    Args:
        transformer: the model that computes the velocity.
        velocity: the function for one pass of one image.
        kind: names them, such as `positive 0`; each kind has its own cache.
        steps: the number of steps of the request.
    """
    if not transformer.is_cache_enabled:
        return velocity
    reset_step_cache(transformer)
    last = steps - 1

    def reused(latents: torch.Tensor, step: int) -> torch.Tensor:
        if step in (0, last):
            # An extrapolated last step costs 3 dB: docs/speed.md.
            _allow_reuse(transformer, step < last)
        with transformer.cache_context(kind):
            return velocity(latents, step)

    return reused


def _allow_reuse(transformer: DreamOTransformer2DModel, allowed: bool) -> None:
    for module in transformer.modules():
        for hook in hooks_of(module):
            if isinstance(hook, TaylorSeerCacheHook):
                hook.disable_cache_after_step = None if allowed else 0
