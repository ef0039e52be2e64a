"""Chooses the devices and the dtype that the models run with."""

import json

import torch

from dream_o.errors import SettingError
from dream_o.weights.format.bundle import Bundle


def pick_devices(setting: str) -> list[torch.device]:
    """The devices that DREAM_O_DEVICE names: one, or several of one type such as `cuda:0,1`.

    `cpu:0,1` stands for two processes on the CPU.

    Raises:
        SettingError: this machine does not have a device, or a device is named twice.
    """
    kind, _, numbers = setting.partition(":")
    if "," not in numbers:
        return [pick_device(setting)]
    indices = [int(number) for number in numbers.split(",")]
    if len(set(indices)) < len(indices):
        raise SettingError("DREAM_O_DEVICE", setting, "names a device twice; name each once")
    if kind == "cpu":
        return [torch.device("cpu")] * len(indices)
    devices = [torch.device(kind, index) for index in indices]
    for device in devices:
        _check_present(device, setting)
    return devices


def pick_device(setting: str) -> torch.device:
    """The one device that DREAM_O_DEVICE names; `auto` is the first available of CUDA, MPS, CPU.

    Raises:
        SettingError: this machine does not have the device, or several are named.
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
    if "," in setting:
        raise SettingError(
            "DREAM_O_DEVICE",
            setting,
            "names several devices, which DreamRender does not support; name one",
        )
    device = torch.device(setting)
    _check_present(device, setting)
    return device


def _check_present(device: torch.device, setting: str) -> None:
    cuda_devices = torch.cuda.device_count()
    missing = {
        "cuda": (device.index or 0) >= cuda_devices,
        "mps": not torch.backends.mps.is_available(),
    }
    if missing.get(device.type):
        there = [f"cuda:{index}" for index in range(cuda_devices)] + ["cpu"]
        raise SettingError(
            "DREAM_O_DEVICE", setting, f"is not on this machine; use auto, {' or '.join(there)}"
        )


def check_sharing(setting: str, ranks: int, bundle: Bundle, speed: str, plan: str) -> None:
    """Raises SettingError if several devices cannot share the work.

    Args:
        setting: DREAM_O_DEVICE.
        ranks: the number of devices that it names.
        bundle: the bundle, for its number of attention heads.
        speed: DREAM_O_SPEED.
        plan: the offloading plan of the first device.
    """
    if ranks == 1:
        return
    if speed not in ("auto", "exact"):
        # A compiled block must be one graph, but exchanging sizes between ranks breaks the graph.
        raise SettingError(
            "DREAM_O_SPEED", speed, "cannot be used with several devices; use auto or exact"
        )
    if plan != "none":
        raise SettingError(
            "DREAM_O_DEVICE",
            setting,
            f"cannot be used with offloading ({plan}); name one device, or set "
            "DREAM_O_OFFLOAD=none",
        )
    config = json.loads((bundle.folder / "transformer" / "config.json").read_bytes())
    heads = config["num_attention_heads"]
    if heads % ranks:
        counts = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise SettingError(
            "DREAM_O_DEVICE",
            setting,
            f"names {ranks} devices, which do not divide the model's {heads} attention heads; "
            f"use one of these numbers of devices: {counts}",
        )


def pick_dtype(setting: str, device: torch.device) -> torch.dtype:
    """The dtype that DREAM_O_DTYPE names; `auto` is float32 on a CPU, bfloat16 elsewhere."""
    if setting == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[setting]
