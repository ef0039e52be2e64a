"""What a caller can do after each denoising step: show it, or end the request."""

from collections.abc import Callable
from typing import Any

import torch

from dream_o.runtime.device_thread import stop_between_steps

OnStep = Callable[[int, torch.Tensor], None]
"""A function of a step, from 0, and the latents after it, in the pipeline's own layout.

It is called in the device's thread, so it must be quick. An exception that it raises ends the
request and is raised to the request's caller.
"""


def step_end(on_step: OnStep | None) -> Callable[..., dict[str, Any]]:
    """`on_step` as diffusers' pipelines call it; a request that nobody waits for ends as well."""

    def callback(
        pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        stop_between_steps(pipeline, step, timestep, tensors)
        if on_step is not None:
            on_step(step, tensors["latents"])
        return {}

    return callback
