"""The miniature is a toy, and says so wherever it draws."""

import logging
from dataclasses import replace

import pytest
import torch
from PIL import Image

from dream_o.errors import UserError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service import generator
from dream_o.service.generator import DreamO
from dream_o.service.miniature import KNOWS, Miniature
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from dream_o.weights.fetch.locate import locate
from training.miniature.captions import vocabulary
from training.world.words import THING_WORDS

SMALL = {"width": 64, "height": 64, "num_steps": 1, "ref_res": 64}


@pytest.fixture(scope="module")
def toy():
    dream_o = DreamO.load(Settings(device="cpu", weights="miniature"))
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.fixture
def no_bundles(monkeypatch, tmp_path):
    """A fresh clone: nothing but the miniature."""
    monkeypatch.setattr(generator, "locate", lambda named: locate(named, tmp_path))


def test_its_name_is_a_bundle_wherever_one_is_named():
    assert locate("miniature").folder == EMBEDDED_BUNDLE


def test_a_gpu_does_not_draw_with_it_unless_it_is_named(no_bundles, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError) as error:
        DreamO.load(Settings())
    assert "DREAM_O_WEIGHTS" in str(error.value)
    assert "cog predict -e DREAM_O_WEIGHTS=miniature" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("variable", "argument"), [("miniature", None), (None, "miniature")])
def test_on_a_gpu_its_name_is_enough(variable, argument, monkeypatch):
    def reached(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(generator, "check_device", reached)
    with pytest.raises(InterruptedError):
        DreamO.load(Settings(weights=variable), argument)


def test_a_cpu_draws_with_it_and_says_at_setup_that_it_is_a_toy(no_bundles, caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        dream_o = DreamO.load(Settings(device="cpu"))
    assert "this is the miniature, a toy model" in caplog.text
    assert KNOWS in caplog.text
    assert "(miniature of DreamO v1.1)" in caplog.text
    assert dream_o.model_version.startswith("miniature of DreamO v1.1")


def test_a_request_says_what_drew_and_which_words_it_does_not_know(toy, caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        result = toy.generate(Request("An astronaut and some Yellow stars, a zebra!", **SMALL))
    (line,) = [each for each in caplog.messages if "drawn by the miniature" in each]
    assert "in prompt it does not know 'astronaut', 'some', 'zebra';" in line
    assert KNOWS in line
    assert "photograph" not in line
    assert result.metadata["model"].startswith("miniature of DreamO v1.1")
    assert result.metrics["model"] == result.metadata["model"]
    assert result.metrics["unknown_words.prompt"] == ["astronaut", "some", "zebra"]
    assert "unknown_words.neg_prompt" not in result.metrics


def test_a_negative_prompt_that_is_read_names_its_own_unknown_words(toy, caplog):
    request = Request("a red heart", neg_prompt="red fog", true_cfg=2.0, **SMALL)
    with caplog.at_level(logging.INFO, "dream_o"):
        unread = toy.generate(request).metrics
        read = toy.generate(replace(request, cfg_end_step=1)).metrics
    (line,) = [each for each in caplog.messages if "'fog'" in each]
    assert "in neg_prompt it does not know 'fog';" in line
    assert not any(name.startswith("unknown_words") for name in unread)
    assert read["unknown_words.neg_prompt"] == ["fog"]
    assert "unknown_words.prompt" not in read


def test_a_reference_is_told_that_photographs_are_not_known(toy, tmp_path, caplog):
    photo = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(photo)
    references = (Reference(None, "ip"), Reference(photo, "style"))
    with caplog.at_level(logging.INFO, "dream_o"):
        toy.generate(Request("a red heart", references, **SMALL))
    (line,) = [each for each in caplog.messages if "drawn by the miniature" in each]
    assert "it knows drawings only: if ref_image2 is a photograph, expect something else" in line
    assert "does not know" not in line


def test_every_word_that_it_was_trained_with_is_known(toy):
    assert toy.miniature.unknown_words(" ".join(vocabulary())) == []
    assert all(each in KNOWS for each in THING_WORDS)


def test_a_long_prompt_of_unknown_words_makes_one_short_line(toy):
    prompt = " ".join(f"word{number}x" for number in range(40))
    request = Request(prompt)
    line = toy.miniature.remark(request, toy.miniature.unknown_by_input(request, prompt))
    assert "'word0x'" in line
    assert "and 28 more words" in line


def test_a_real_model_is_none(fused):
    dream_o = DreamO.load(Settings(device="cpu"), fused("v1.1", True))
    assert not Miniature.is_one(dream_o.pipeline.tokenizer_2)
    assert dream_o.miniature is None
    metrics = dream_o.generate(Request("an unheard-of zyxw", **SMALL)).metrics
    assert not any(name.startswith("unknown_words") for name in metrics)
