"""Steps that are not computed: their velocity is extrapolated from the steps before.

diffusers' TaylorSeer cache does the extrapolation inside the transformer. Here is what a denoising
loop needs around it, so that the loop itself knows nothing of it.
"""

import torch
from diffusers import TaylorSeerCacheConfig
from diffusers.hooks.taylorseer_cache import TaylorSeerCacheHook

from dream_o.library_internals import hooks_of, reset_step_cache
from dream_o.sampling import Velocity
from dream_o.transformer import DreamOTransformer2DModel


def enable_step_reuse(transformer: DreamOTransformer2DModel, first: int, every: int) -> None:
    """Computes the first `first` steps, then one in `every`; a velocity changes linearly between.

    Which steps are left out is known beforehand, so nothing waits for a decision of the device.
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


def reusing_steps(
    transformer: DreamOTransformer2DModel, velocity: Velocity, kind: str, steps: int
) -> Velocity:
    """A velocity of a request of `steps` steps, whose last step is always computed.

    Where the transformer reuses no steps, it is the velocity as it is.

    Args:
        transformer: that computes the velocity.
        velocity: of one kind of pass.
        kind: `positive` or `negative`; what is kept of one is not used for the other.
        steps: of the request.
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
