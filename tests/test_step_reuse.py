"""Steps that are left out in `fast`."""

import torch

from benchmarks.measure import computed_steps
from dream_o.step_reuse import enable_step_reuse
from tests.sampled import difference, latents_of


def test_the_first_steps_one_in_so_many_and_the_last_are_computed(pipeline):
    enable_step_reuse(pipeline.transformer, first=3, every=2)
    for steps, computed in ((3, 3), (8, 6), (9, 6), (12, 8), (3, 3)):
        with computed_steps(pipeline.transformer) as counted:
            latents_of(pipeline, 0, height=32, width=32, num_inference_steps=steps)
        assert len(counted) == computed


def test_the_last_step_of_a_negative_pass_that_begins_later_is_computed(pipeline):
    enable_step_reuse(pipeline.transformer, first=2, every=2)
    options = {"num_inference_steps": 8, "true_cfg_scale": 2.0, "cfg_start_step": 1}
    with computed_steps(pipeline.transformer) as counted:
        latents_of(pipeline, **options, cfg_end_step=8)
    # Of the positive pass 0, 1, 3, 5, 7; of the negative 1, 2, 4, 6 and the last, 7.
    assert len(counted) == 5 + 5


def test_reuse_begins_anew_with_each_request_and_keeps_the_negative_pass_apart(pipeline):
    options = {"num_inference_steps": 8, "true_cfg_scale": 2.0, "cfg_end_step": 8}
    exact = latents_of(pipeline, **options)
    enable_step_reuse(pipeline.transformer, first=3, every=2)

    def stop(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 4
        return tensors

    once = latents_of(pipeline, **options)
    latents_of(pipeline, num_inference_steps=8, callback_on_step_end=stop)
    assert torch.equal(latents_of(pipeline, **options), once)
    assert 0 < difference(once, exact) < 0.2
