import logging
from pathlib import Path

import pytest

from dream_o.errors import InputError
from dream_o.service.request import STYLE_TRIGGER, Reference, Request, check_request, full_prompt


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (
            {"width": 1000},
            "width: 1000 is not a multiple of 16; the nearest allowed values are 992 and 1008",
        ),
        (
            {"height": 769},
            "height: 769 is not a multiple of 16; the nearest allowed values are 768 and 784",
        ),
        (
            {"cfg_start_step": 5, "cfg_end_step": 3},
            "cfg_start_step: 5 is greater than cfg_end_step (3); "
            "use a cfg_start_step of at most cfg_end_step",
        ),
        (
            {"prompt": "a" * 10_001},
            "prompt: has 10001 characters; at most 10000 are allowed",
        ),
        (
            {"neg_prompt": "a" * 5_000_000},
            "neg_prompt: has 5000000 characters; at most 10000 are allowed",
        ),
        ({"prompt": " \n"}, "prompt: is empty; describe the image, or give a reference image"),
        (
            {"prompt": "", "references": (Reference(None, "ip"),)},
            "prompt: is empty; describe the image, or give a reference image",
        ),
        (
            {"references": (Reference(None, "ip"), Reference("/etc/passwd", "ip"))},
            "ref_image2: send an upload, a data URL or an http(s) URL, not a local path",
        ),
    ],
)
def test_refused_in_one_sentence(inputs, error):
    with pytest.raises(InputError) as refusal:
        check_request(Request(**{"prompt": "a cat"} | inputs))
    assert str(refusal.value) == error


def test_an_empty_prompt_is_fine_with_a_reference(caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        check_request(Request(prompt="", references=(Reference(Path("cat.png"), "ip"),)))
    assert not caplog.messages


@pytest.mark.parametrize(
    ("start", "end", "has_effect"),
    [(0, 0, False), (4, 4, False), (8, 12, False), (0, 1, True), (7, 30, True)],
)
def test_a_true_cfg_window_without_steps_is_told(start, end, has_effect, caplog):
    request = Request(
        prompt="a cat", num_steps=8, true_cfg=2.0, cfg_start_step=start, cfg_end_step=end
    )
    with caplog.at_level(logging.INFO, "dream_o"):
        check_request(request)
    assert ("true_cfg=2 has no effect" in caplog.text) is not has_effect


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a rooster", f"{STYLE_TRIGGER} a rooster"),
        ("Generate a Same Style Image. a rooster", "Generate a Same Style Image. a rooster"),
        ("", STYLE_TRIGGER),
    ],
)
def test_style_gets_its_trigger_sentence_once_and_the_log_says_so(prompt, expected, caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        assert full_prompt(Request(prompt, (Reference(Path("hill.png"), "style"),))) == expected
    assert (STYLE_TRIGGER in caplog.text) is (prompt != expected)


def test_a_task_without_its_image_is_ignored():
    assert full_prompt(Request("a rooster", (Reference(None, "style"),))) == "a rooster"


def test_a_tenth_reference_is_refused():
    nine = (Reference(None, "ip"),) * 9
    check_request(Request("a hill", nine))
    with pytest.raises(InputError, match=r"^ref_image10: at most 9 references are allowed$"):
        check_request(Request("a hill", (*nine, Reference(None, "ip"))))
