import pytest
import torch

from dream_o.errors import SettingError
from dream_o.runtime.devices import pick_device, pick_dtype


def test_auto_is_the_first_device_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_a_gpu_that_is_not_there_is_refused_with_what_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingError, match=r"DREAM_O_DEVICE='cuda:1' .* cuda:0 or cpu"):
        pick_device("cuda:1")


@pytest.mark.parametrize(
    ("setting", "device", "dtype"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.bfloat16),
        ("float16", "cuda", torch.float16),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cpu", torch.bfloat16),
    ],
)
def test_dtype(setting, device, dtype):
    assert pick_dtype(setting, torch.device(device)) == dtype
