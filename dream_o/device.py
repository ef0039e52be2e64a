"""Where and in which precision the models run."""

import torch

from dream_o.errors import SettingError


def pick_device(setting: str) -> torch.device:
    """The device that DREAM_O_DEVICE names; `auto` is the first of CUDA, MPS and CPU there is.

    Raises:
        SettingError: a device that this machine does not have.
    """
    if setting == "auto":
        present = [
            name
            for name, there in (
                ("cuda", torch.cuda.is_available()),
                ("mps", torch.backends.mps.is_available()),
                ("cpu", True),
            )
            if there
        ]
        return torch.device(present[0])
    device = torch.device(setting)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingError("DREAM_O_DEVICE", setting, _choices(torch.cuda.device_count()))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingError("DREAM_O_DEVICE", setting, _choices(torch.cuda.device_count()))
    return device


def _choices(cuda_devices: int) -> str:
    there = [f"cuda:{index}" for index in range(cuda_devices)] + ["cpu"]
    return f"auto or what this machine has: {', '.join(there)}"


def pick_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The dtype that DREAM_O_DTYPE names; `auto` is float32 on a CPU, bfloat16 elsewhere."""
    if setting == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[setting]
