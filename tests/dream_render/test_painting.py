"""Text windows, and the calls of one and of two passes."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.painting import HIRES_STRENGTH, paint
from dream_o.dream_render.windows import encode_prompts, token_windows
from tests.dream_render.tiny_checkpoints import tiny_pipeline

WINDOW = 77


@pytest.fixture(scope="module")
def sd15(dream_render: DreamRender) -> Any:
    return dream_render.checkpoints.get(dream_render.registry.models["miniature"])


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny_pipeline("sdxl")


@pytest.fixture(params=["sd15", "sdxl"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def tokens(pipeline: Any, text: str) -> int:
    return len(pipeline.tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("prompt", ["shoe", "", "a red shoe on a table, soft light"])
def test_a_short_prompt_is_encoded_as_diffusers_does(pipeline: Any, prompt: str) -> None:
    ours = encode_prompts(pipeline, prompt, "blur")
    theirs = pipeline.encode_prompt(
        prompt,
        device=torch.device("cpu"),
        num_images_per_prompt=1,
        negative_prompt="blur",
        do_classifier_free_guidance=True,
    )
    names = ["prompt_embeds", "negative_prompt_embeds"]
    names += ["pooled_prompt_embeds", "negative_pooled_prompt_embeds"] if len(theirs) == 4 else []
    assert sorted(ours) == sorted(names)
    for name, expected in zip(names, theirs, strict=True):
        assert torch.equal(ours[name], expected), name


def test_an_empty_negative_prompt_is_nothing_to_sdxl(sdxl: Any) -> None:
    encoded = encode_prompts(sdxl, "shoe", "")
    assert not encoded["negative_prompt_embeds"].any()
    assert not encoded["negative_pooled_prompt_embeds"].any()
    assert encoded["prompt_embeds"].any()


def test_each_of_200_tokens_reaches_the_encoder(pipeline: Any) -> None:
    letters = ["a"] * 200
    assert tokens(pipeline, " ".join(letters)) == 200

    def embeddings(letters: list[str]) -> torch.Tensor:
        found = encode_prompts(pipeline, " ".join(letters), "blur")["prompt_embeds"]
        assert found.shape[:2] == (1, 3 * WINDOW)
        return found.unflatten(1, (3, WINDOW))

    whole = embeddings(letters)
    for place, window in ((0, 0), (74, 0), (75, 1), (149, 1), (150, 2), (199, 2)):
        changed = embeddings([*letters[:place], "b", *letters[place + 1 :]])
        others = [each for each in range(3) if each != window]
        assert torch.equal(whole[:, others], changed[:, others])
        assert not torch.equal(whole[:, window], changed[:, window])


def test_windows_have_marks_and_the_shorter_text_is_filled_up(sd15: Any) -> None:
    tokenizer = sd15.tokenizer
    start, end, fill = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    (letter,) = tokenizer("a", add_special_tokens=False).input_ids
    ids = token_windows(tokenizer, [" ".join("a" * 80), ""]).tolist()
    assert ids[0][0] == [start, *[letter] * 75, end]
    assert ids[0][1] == [start, *[letter] * 5, end, *[fill] * 70]
    assert ids[1] == [[start, end, *[fill] * 75]] * 2


def test_prompt_and_negative_prompt_get_the_same_number_of_windows(pipeline: Any) -> None:
    encoded = encode_prompts(pipeline, "shoe", " ".join(["blur"] * 100))
    assert encoded["prompt_embeds"].shape == encoded["negative_prompt_embeds"].shape
    assert encoded["prompt_embeds"].shape[1] >= 2 * WINDOW


SETTINGS: dict[str, Any] = {
    "width": 64,
    "height": 72,
    "steps": 3,
    "cfg_scale": 5.0,
    "seed": 1,
    "hires": False,
}


def pixels(pipeline: Any, prompt: str = "shoe", negative: str = "", **changes: Any) -> np.ndarray:
    return np.asarray(paint(pipeline, prompt, negative, **(SETTINGS | changes)))


def test_the_image_has_the_size_and_twice_that_with_hires(pipeline: Any) -> None:
    assert pixels(pipeline).shape == (72, 64, 3)
    assert pixels(pipeline, hires=True).shape == (144, 128, 3)


def test_the_same_call_gives_the_same_image(pipeline: Any) -> None:
    for hires in (False, True):
        assert np.array_equal(pixels(pipeline, hires=hires), pixels(pipeline, hires=hires))


@pytest.mark.parametrize(
    "changes",
    [{"seed": 2}, {"steps": 4}, {"cfg_scale": 9.0}, {"prompt": "lamp"}, {"negative": "lamp"}],
)
def test_each_argument_changes_the_image(sd15: Any, changes: dict[str, Any]) -> None:
    assert not np.array_equal(pixels(sd15), pixels(sd15, **changes))


@pytest.mark.parametrize("steps", [1, 2])
def test_the_fewest_steps_work_in_both_passes(pipeline: Any, steps: int) -> None:
    assert pixels(pipeline, steps=steps, hires=True).std() > 0


def test_the_second_pass_takes_7_tenths_of_the_steps_with_the_same_words_and_seed(
    sd15: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    for each in (type(sd15), StableDiffusionImg2ImgPipeline):
        original = each.__call__

        def recorded(self: Any, *, original: Any = original, **arguments: Any) -> Any:
            state = arguments["generator"].initial_seed()
            calls.append(arguments | {"seed": state, "pipeline": type(self).__name__})
            return original(self, **arguments)

        monkeypatch.setattr(each, "__call__", recorded)
    paint(sd15, "shoe", "blur", **(SETTINGS | {"steps": 10, "hires": True}))
    first, again = calls
    assert (first["width"], first["height"]) == (64, 72)
    assert again["image"].shape == (1, 4, 2 * 72 // 8, 2 * 64 // 8)
    assert again["strength"] == HIRES_STRENGTH == 0.7
    assert first["seed"] == again["seed"] == 1
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        assert torch.equal(first[name], again[name])
    assert [each["num_inference_steps"] for each in calls] == [10, 10]
    assert first["guidance_scale"] == again["guidance_scale"] == 5.0


def test_at_cfg_scale_1_the_negative_prompt_has_no_say(sd15: Any) -> None:
    assert np.array_equal(pixels(sd15, cfg_scale=1.0), pixels(sd15, negative="lamp", cfg_scale=1.0))
