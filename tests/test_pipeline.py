import logging

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from PIL import Image

from dream_o.errors import InputError
from dream_o.pipeline import DreamOPipeline

SMALL = {"height": 128, "width": 192, "num_inference_steps": 3, "max_sequence_length": 40}


@pytest.fixture(scope="module")
def pipeline(fused):
    pipeline = DreamOPipeline.from_pretrained(fused("v1.1", True))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(seed, width=64, height=48):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def latents_of(pipeline, *references, seed=1, **options):
    return pipeline(
        "a cat",
        references,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **SMALL | options,
    ).images


def test_output_types(pipeline):
    image = pipeline("a cat", **SMALL).images[0]
    assert (image.mode, image.size) == ("RGB", (192, 128))
    assert pipeline("a cat", output_type="np", **SMALL).images.shape == (1, 128, 192, 3)
    assert pipeline("a cat", output_type="pt", **SMALL).images.shape == (1, 3, 128, 192)
    assert latents_of(pipeline).shape == (1, 8 * 12, 64)


def test_seconds_of_every_stage_are_told(pipeline):
    seconds = pipeline("a cat", [picture(1)], **SMALL).seconds
    assert list(seconds) == ["prompt", "references", "denoising", "decoding"]
    assert all(each > 0 for each in seconds.values())


def test_the_same_seed_gives_the_same_latents_and_another_does_not(pipeline):
    assert torch.equal(latents_of(pipeline, seed=3), latents_of(pipeline, seed=3))
    assert not torch.equal(latents_of(pipeline, seed=3), latents_of(pipeline, seed=4))


def test_nine_references_each_have_an_effect(pipeline):
    pictures = [picture(each, 16, 16) for each in range(9)]
    all_nine = latents_of(pipeline, *pictures, num_inference_steps=1)
    for left_out in range(9):
        others = [None if at == left_out else each for at, each in enumerate(pictures)]
        made = latents_of(pipeline, *others, num_inference_steps=1)
        assert not torch.allclose(made, all_nine, atol=1e-4)


def test_a_reference_encoded_before_is_as_good_as_its_image(pipeline):
    encoded = pipeline.encode_reference(picture(1))
    assert torch.equal(latents_of(pipeline, encoded), latents_of(pipeline, picture(1)))
    assert torch.equal(latents_of(pipeline, None, encoded), latents_of(pipeline, None, picture(1)))


def test_the_slot_of_a_reference_counts(pipeline):
    first, second = latents_of(pipeline, picture(1)), latents_of(pipeline, None, picture(1))
    assert not torch.allclose(first, second, atol=1e-4)


def test_ten_references_are_refused(pipeline):
    with pytest.raises(InputError, match=r"^reference_images: at most 9 references are allowed$"):
        latents_of(pipeline, *[picture(1)] * 10)


@pytest.mark.parametrize("options", [{"height": 120}, {"width": 0}])
def test_sizes_are_refused_not_rounded(pipeline, options):
    with pytest.raises(InputError, match="not a multiple of 16"):
        latents_of(pipeline, **options)
    with pytest.raises(InputError, match=r"^reference width: 50 is not a multiple"):
        latents_of(pipeline, None, picture(1, width=50))


def test_the_placeholder_of_a_reference_is_one_token(pipeline):
    ids = pipeline.tokenizer_2("[ref#1][ref#9][res]", add_special_tokens=False).input_ids
    tokens = [token for token in pipeline.tokenizer_2.convert_ids_to_tokens(ids) if token != "▁"]
    assert tokens == ["[ref#1]", "[ref#9]", "[res]"]
    embeds = [pipeline.encode_prompt(f"see [ref#{n}]")[0] for n in (1, 2)]
    assert not torch.allclose(*embeds, atol=1e-3)


def test_a_prompt_that_is_too_long_is_told(pipeline, caplog):
    with caplog.at_level(logging.WARNING, "dream_o"):
        encoded = pipeline.encode_prompt("cat " * 600)
        assert not caplog.text
        for _ in range(2):
            pipeline(encoded, height=32, width=32, num_inference_steps=1)
    assert encoded.prompt_embeds.shape[1] == 512
    assert encoded.pooled_prompt_embeds.shape == (
        1,
        pipeline.transformer.config.pooled_projection_dim,
    )
    told = f"the prompt is too long: its last {encoded.excess} of {encoded.excess + 512} tokens"
    assert encoded.excess > 0
    assert caplog.text.count(told) == 2


def test_the_callback_sees_every_step_and_may_replace_the_latents(pipeline):
    seen = []

    def zero(pipe, step, timestep, tensors):
        seen.append((step, float(timestep), tensors["latents"].shape))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = latents_of(pipeline, callback_on_step_end=zero)
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert seen[0][1] > seen[1][1] > seen[2][1]
    assert not latents.any()


def test_interrupt_ends_after_the_running_step(pipeline):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = True
        return tensors

    latents_of(pipeline, callback_on_step_end=stop)
    assert steps == [0]


def test_model_hooks_are_freed_however_a_call_ends(pipeline, monkeypatch):
    freed = []
    monkeypatch.setattr(pipeline, "maybe_free_model_hooks", lambda: freed.append(True))

    def fail(*args):
        raise torch.OutOfMemoryError

    latents_of(pipeline)
    with pytest.raises(torch.OutOfMemoryError):
        latents_of(pipeline, callback_on_step_end=fail)
    assert freed == [True, True]


def test_given_latents_are_where_it_starts(pipeline):
    noise = torch.randn(1, 96, 64, generator=torch.Generator().manual_seed(5))
    assert torch.equal(latents_of(pipeline, latents=noise), latents_of(pipeline, latents=noise))
    assert not torch.equal(latents_of(pipeline, latents=noise), latents_of(pipeline))


def test_nothing_that_stays_the_same_is_computed_twice(pipeline, monkeypatch):
    calls = []
    for owner, method in [
        (pipeline.transformer.context_embedder, "forward"),
        (pipeline.transformer.pos_embed, "forward"),
        (pipeline.transformer.time_text_embed, "forward"),
        (pipeline.text_encoder_2, "forward"),
        (pipeline.vae.encoder, "forward"),
    ]:
        original = getattr(owner, method)

        def counted(*args, _original=original, _owner=owner, **kwargs):
            calls.append(type(_owner).__name__)
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)
    latents_of(pipeline, picture(1))
    assert sorted(calls) == sorted(set(calls))
    assert len(calls) == 5


def test_true_cfg_moves_away_from_the_negative_prompt_in_its_window_only(pipeline):
    plain = latents_of(pipeline, picture(1))
    empty_window = latents_of(pipeline, picture(1), true_cfg_scale=3.0, cfg_end_step=0)
    every_step = latents_of(pipeline, picture(1), true_cfg_scale=3.0)
    guided = latents_of(pipeline, picture(1), true_cfg_scale=3.0, cfg_end_step=1)
    other = latents_of(
        pipeline, picture(1), true_cfg_scale=3.0, cfg_end_step=1, negative_prompt="dark night"
    )
    assert torch.equal(plain, empty_window)
    assert not torch.allclose(plain, guided, atol=1e-4)
    assert not torch.allclose(guided, every_step, atol=1e-4)
    assert not torch.allclose(guided, other, atol=1e-6)


def test_what_is_saved_loads_and_gives_the_same(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    again = DreamOPipeline.from_pretrained(tmp_path / "saved")
    assert again.bundle.model_version == "v1.1"
    for config in (tmp_path / "saved").glob("*/*config.json"):
        assert "_name_or_path" not in config.read_text()
    # Not bit for bit: where a matrix lies in memory changes how its products are rounded.
    torch.testing.assert_close(latents_of(again, picture(2)), latents_of(pipeline, picture(2)))


def test_times_in_bfloat16_are_those_of_flux_pipeline(fused, monkeypatch):
    half = DreamOPipeline.from_pretrained(fused("v1.1", True), torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    ours, theirs = [], []
    embed_time = half.transformer.embed_time
    monkeypatch.setattr(
        half.transformer,
        "embed_time",
        lambda times, *others: ours.extend(times) or embed_time(times, *others),
    )
    prompt = half.encode_prompt("a cat")
    options = {"height": 128, "width": 192, "num_inference_steps": 12, "output_type": "latent"}
    half(prompt, **options)

    flux = FluxPipeline(
        scheduler=half.scheduler,
        vae=half.vae,
        text_encoder=half.text_encoder,
        tokenizer=half.tokenizer,
        text_encoder_2=half.text_encoder_2,
        tokenizer_2=half.tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=64, num_layers=0, num_single_layers=0, guidance_embeds=True
        ),
    )
    flux.set_progress_bar_config(disable=True)

    def still(hidden_states, timestep, **_):
        theirs.extend(timestep)
        return (torch.zeros_like(hidden_states),)

    monkeypatch.setattr(flux.transformer, "forward", still)
    flux("a cat", **options)
    assert len(ours) == 12
    assert [(each.dtype, each.item()) for each in ours] == [
        (each.dtype, each.item()) for each in theirs
    ]


def test_the_dtype_asked_for_is_the_dtype_of_every_model(fused):
    half = DreamOPipeline.from_pretrained(fused("v1.1", True), torch_dtype=torch.bfloat16)
    models = (half.transformer, half.vae, half.text_encoder, half.text_encoder_2)
    assert {each.dtype for each in models} == {torch.bfloat16}
    assert latents_of(half, picture(1)).dtype == torch.bfloat16
    assert np.asarray(half("a cat", **SMALL).images[0]).std() > 0


@pytest.mark.parametrize("options", [{}, {"true_cfg_scale": 2.0}], ids=["plain", "true CFG"])
def test_modulation_before_the_loop_gives_the_latents_of_modulation_in_each_step(
    pipeline, monkeypatch, options
):
    options = {"num_inference_steps": 5, "negative_prompt": "dark"} | options
    before_the_loop = latents_of(pipeline, **options)
    model = type(pipeline.transformer)
    rows_of, forward = model.modulation, model.forward

    def in_each_step(self, *, modulation: torch.Tensor, **arguments):
        assert modulation.shape == (1, self.inner_dim), "one row of `embed_time`"
        return forward(self, modulation=rows_of(self, modulation), **arguments)

    monkeypatch.setattr(model, "modulation", lambda self, temb: temb)
    monkeypatch.setattr(model, "forward", in_each_step)
    assert torch.equal(latents_of(pipeline, **options), before_the_loop)


def test_no_layer_of_the_modulation_is_called_within_the_loop(pipeline):
    calls = []
    hooks = [
        layer.register_forward_hook(lambda *_: calls.append("modulation"))
        for layer in pipeline.transformer.modulation_layers()
    ]
    latents_of(
        pipeline,
        num_inference_steps=3,
        callback_on_step_end=lambda *given: calls.append("step") or given[3],
    )
    for hook in hooks:
        hook.remove()
    first = calls.index("step")
    assert calls[:first].count("modulation") >= len(pipeline.transformer.modulation_layers())
    assert calls[first:] == ["step"] * 3


def test_a_references_pixels_are_rounded_once(fused):
    half = DreamOPipeline.from_pretrained(fused("v1.1", True), torch_dtype=torch.bfloat16)
    entered = []
    half.vae.encode = lambda pixels: entered.append(pixels) or FakePosterior(pixels)
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    half.encode_reference(Image.fromarray(levels))
    exact = torch.arange(256).reshape(16, 16).double() / 127.5 - 1
    assert torch.equal(entered[0][0, 0], exact.to(torch.bfloat16))


class FakePosterior:
    """What the VAE gives, of latents that nobody looks at."""

    def __init__(self, pixels: torch.Tensor) -> None:
        self.latent_dist = self
        self.latents = pixels.new_zeros(1, 4, 2, 2)

    def mode(self) -> torch.Tensor:
        return self.latents
