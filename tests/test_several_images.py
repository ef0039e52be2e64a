"""Several images in one call of the pipeline: lists of prompts, generators and noise."""

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

from dream_o.errors import InputError
from dream_o.pipeline import DreamOPipeline
from dream_o.sampling import pack
from dream_o.step_reuse import enable_step_reuse
from tests.test_pipeline import picture

SMALL = {"height": 64, "width": 96, "num_inference_steps": 2, "max_sequence_length": 40}
PROMPTS = ["a cat", "a red house at night"]


@pytest.fixture(scope="module")
def pipeline(fused):
    pipeline = DreamOPipeline.from_pretrained(fused("v1.1", True))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def latents_of(pipeline, prompt, **options):
    return pipeline(prompt, output_type="latent", **SMALL | options).images


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reference_images": [picture(1), None, picture(2, 32, 64)]},
        {"true_cfg_scale": 2.0, "cfg_start_step": 1, "negative_prompt": "dark"},
    ],
    ids=["text", "references", "true CFG"],
)
def test_every_image_has_the_bits_of_a_call_of_its_own(pipeline, options):
    generators = seeded(1, 2, 3, 4)
    several = latents_of(
        pipeline, PROMPTS, num_images_per_prompt=2, generator=generators, **options
    )
    single = [
        latents_of(pipeline, prompt, generator=generator, **options)
        for prompt, generator in zip(
            [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], seeded(1, 2, 3, 4), strict=True
        )
    ]
    assert several.shape == (4, 4 * 6, 64)
    assert torch.equal(several, torch.cat(single))
    assert len({each.numpy().tobytes() for each in single}) == 4


def test_each_prompt_has_its_own_negative_prompt(pipeline):
    options = {"true_cfg_scale": 2.0}
    negatives = ["dark night", "snow"]
    several = latents_of(
        pipeline, PROMPTS, negative_prompt=negatives, generator=seeded(1, 1), **options
    )
    single = [
        latents_of(pipeline, prompt, negative_prompt=negative, generator=seeded(1)[0], **options)
        for prompt, negative in zip(PROMPTS, negatives, strict=True)
    ]
    assert torch.equal(several, torch.cat(single))


def test_every_image_has_its_own_memory_of_earlier_steps(fused):
    pipeline = DreamOPipeline.from_pretrained(fused("v1.1", True))
    pipeline.set_progress_bar_config(disable=True)
    enable_step_reuse(pipeline.transformer, 2, 2)
    options = {"num_inference_steps": 8, "true_cfg_scale": 2.0, "cfg_end_step": 6}
    several = latents_of(pipeline, PROMPTS, generator=seeded(1, 2), **options)
    single = [
        latents_of(pipeline, prompt, generator=generator, **options)
        for prompt, generator in zip(PROMPTS, seeded(1, 2), strict=True)
    ]
    assert torch.equal(several, torch.cat(single))


def test_one_generator_draws_for_all_images_in_turn(pipeline):
    (generator,) = seeded(7)
    several = latents_of(pipeline, "a cat", num_images_per_prompt=3, generator=generator)
    (generator,) = seeded(7)
    single = [latents_of(pipeline, "a cat", generator=generator) for _ in range(3)]
    assert torch.equal(several, torch.cat(single))


def test_the_noise_of_several_images_is_that_of_diffusers(pipeline):
    batch = pack(randn_tensor((3, 16, 8, 12), generator=seeded(7)[0], dtype=torch.float32))
    given = latents_of(pipeline, "a cat", num_images_per_prompt=3, latents=batch)
    drawn = latents_of(pipeline, "a cat", num_images_per_prompt=3, generator=seeded(7)[0])
    assert torch.equal(given, drawn)


def test_references_and_equal_prompts_are_encoded_once(pipeline, monkeypatch):
    calls = []
    for name in ("encode_prompt", "encode_reference"):
        original = getattr(pipeline, name)
        monkeypatch.setattr(
            pipeline, name, lambda *given, _o=original, _n=name: calls.append(_n) or _o(*given)
        )
    latents_of(
        pipeline,
        ["a cat", "a dog", "a cat"],
        reference_images=[picture(1)],
        num_images_per_prompt=2,
        negative_prompt="dark",
        true_cfg_scale=2.0,
    )
    assert calls == ["encode_prompt"] * 3 + ["encode_reference"]


def test_several_images_in_every_output_type(pipeline):
    def images(kind):
        return pipeline(PROMPTS, generator=seeded(1, 2), output_type=kind, **SMALL).images

    single = [
        pipeline(prompt, generator=generator, **SMALL).images[0]
        for prompt, generator in zip(PROMPTS, seeded(1, 2), strict=True)
    ]
    assert [each.tobytes() for each in images("pil")] == [each.tobytes() for each in single]
    assert images("np").shape == (2, 64, 96, 3)
    assert images("pt").shape == (2, 3, 64, 96)
    levels = np.stack([np.asarray(each) for each in single])
    np.testing.assert_allclose(images("np") * 255, levels, atol=0.51)


def test_a_step_ends_for_all_images_at_once(pipeline):
    seen = []

    def zero_the_second(pipe, step, timestep, tensors):
        seen.append((step, tensors["latents"].shape))
        tensors["latents"][1] = 0
        return tensors

    made = latents_of(
        pipeline, "a cat", num_images_per_prompt=2, callback_on_step_end=zero_the_second
    )
    assert seen == [(step, (2, 24, 64)) for step in range(2)]
    assert made[0].any()
    assert not made[1].any()


def test_return_dict_false_gives_a_tuple(pipeline):
    (images,) = pipeline("a cat", return_dict=False, **SMALL)
    assert images[0].size == (96, 64)


def test_a_shorter_sequence_has_fewer_text_tokens(pipeline):
    assert pipeline.encode_prompt("a cat", 64).prompt_embeds.shape[1] == 64
    short = latents_of(pipeline, "a cat", generator=seeded(1)[0], max_sequence_length=64)
    encoded = pipeline.encode_prompt("a cat", 64)
    assert torch.equal(short, latents_of(pipeline, encoded, generator=seeded(1)[0]))
    assert not torch.equal(short, latents_of(pipeline, "a cat", generator=seeded(1)[0]))


ALLOWED = "give a string, the output of `encode_prompt`, or a list of these"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"prompt": None}, f"prompt: is of type NoneType; {ALLOWED}"),
        ({"prompt": []}, f"prompt: is an empty list; {ALLOWED}"),
        ({"prompt": ["a cat", 3]}, f"prompt: holds a value of type int; {ALLOWED}"),
        (
            {"negative_prompt": ["a", "b", "c"]},
            "negative_prompt: 3 were given for 2 prompts; give one for each prompt, or one for all",
        ),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: 0 is not a whole number above 0"),
        (
            {"num_images_per_prompt": 2, "generator": seeded(1, 2, 3)},
            "generator: 3 were given for 4 images; give one for each image, or one for all",
        ),
        (
            {"latents": torch.zeros(1, 24, 64)},
            "latents: have the shape (1, 24, 64); (2, 24, 64) is needed for this call",
        ),
        (
            {"max_sequence_length": 513},
            "max_sequence_length: 513 is out of range; use 1 to 512",
        ),
        ({"output_type": "jpg"}, "output_type: 'jpg' is not allowed; use pil, np, pt or latent"),
        (
            {"callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]},
            "callback_on_step_end_tensor_inputs: 'prompt_embeds' is not offered; use latents",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_encoded(
    pipeline, monkeypatch, arguments, error
):
    monkeypatch.setattr(type(pipeline.text_encoder_2), "forward", None)
    with pytest.raises(InputError) as raised:
        pipeline(**{"prompt": PROMPTS} | SMALL | arguments)
    assert str(raised.value) == error


def test_encoded_prompts_of_two_lengths_are_refused(pipeline):
    encoded = [pipeline.encode_prompt("a cat"), pipeline.encode_prompt("a dog", 64)]
    with pytest.raises(InputError, match=r"^prompt: was encoded with 64 tokens, and the first "):
        pipeline(encoded, **SMALL)
