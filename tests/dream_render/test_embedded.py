"""The embedded checkpoint draws what the prompt says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dream_o.dream_render.generator import TOY, DreamRender
from dream_o.dream_render.request import RenderRequest
from tests.dream_render.conftest import KEY
from training.sd_miniature.captions import vocabulary
from training.sd_miniature.images import THINGS, Shown
from training.sd_miniature.judge import judge, tiles_of
from training.tokenizers import clip_tokenizer

SHOE = RenderRequest(
    model="miniature", prompt="a red shoe", width=512, height=512, seed=1, enhance_prompt=False
)


def shown(dream_render: DreamRender, **changes: Any) -> Shown:
    return judge(tiles_of(dream_render.generate(replace(SHOE, **changes), KEY).image))


def test_its_tokenizer_knows_the_words_of_its_training(dream_render: DreamRender) -> None:
    pipeline = dream_render.checkpoints.get(dream_render.registry.models["miniature"])
    assert pipeline.tokenizer.get_vocab() == clip_tokenizer(vocabulary()).get_vocab()
    assert all(thing in TOY for thing in THINGS)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red shoe on a mint background", ("shoe", "red", "mint")),
        ("a blue car in the snow", ("car", "blue", "snow")),
        ("an orange cat in a room", ("cat", "orange", "room")),
    ],
)
def test_it_draws_the_thing_its_colour_and_the_ground(
    dream_render: DreamRender, prompt: str, expected: tuple[str, str, str]
) -> None:
    found = shown(dream_render, prompt=prompt)
    assert (found.thing, found.colour, found.ground) == expected


def test_enhancement_changes_neither_thing_nor_colour(dream_render: DreamRender) -> None:
    found = shown(dream_render, enhance_prompt=True)
    assert (found.thing, found.colour) == ("shoe", "red")


def test_with_a_negative_prompt_the_image_is_another_and_not_of_its_colour(
    dream_render: DreamRender,
) -> None:
    drawn = dream_render.generate(replace(SHOE, negative_prompt="red", prompt="a shoe"), KEY).image
    assert judge(tiles_of(drawn)).colour != "red"
    plain = dream_render.generate(replace(SHOE, prompt="a shoe"), KEY).image
    assert np.abs(np.asarray(drawn, float) - np.asarray(plain)).mean() > 2
