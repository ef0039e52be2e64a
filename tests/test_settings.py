import pytest

from dream_o.errors import SettingError
from dream_o.service.settings import Settings


def test_nothing_set_gives_the_defaults():
    assert Settings.from_environ({}) == Settings(weights=None, device="auto", dtype="auto")


def test_an_empty_variable_counts_as_not_set():
    assert Settings.from_environ({"DREAM_O_DEVICE": "", "DREAM_O_WEIGHTS": ""}) == Settings()


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:3"])
def test_devices_that_can_be_named(device):
    assert Settings.from_environ({"DREAM_O_DEVICE": device}).device == device


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("DREAM_O_DEVICE", "gpu", "auto, cuda, cuda:N, mps or cpu"),
        ("DREAM_O_DEVICE", "cuda:", "auto, cuda, cuda:N, mps or cpu"),
        ("DREAM_O_DTYPE", "fp16", "auto, float32, bfloat16, float16"),
        (
            "DREAM_O_REFERENCES",
            "online",
            "auto, networks, offline, fetch or hf://owner/repository/folder",
        ),
    ],
)
def test_a_bad_value_is_one_sentence_with_variable_value_and_what_is_allowed(
    variable, value, allowed
):
    with pytest.raises(SettingError) as error:
        Settings.from_environ({variable: value})
    assert str(error.value) == f"{variable}={value!r} is not allowed; use {allowed}"


@pytest.mark.parametrize(("value", "logged"), [("", False), ("0", False), ("1", True)])
def test_prompts_are_logged_only_when_asked_for(value, logged):
    assert Settings.from_environ({"DREAM_O_LOG_PROMPTS": value}).log_prompts is logged
    with pytest.raises(SettingError, match="DREAM_O_LOG_PROMPTS='yes' is not allowed; use 0 or 1"):
        Settings.from_environ({"DREAM_O_LOG_PROMPTS": "yes"})
