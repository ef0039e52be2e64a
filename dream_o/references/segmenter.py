"""The networks that tell a subject from its scenery, for use without downloaded networks.

Two U-Nets of 1.4 million parameters each, trained by `python -m training.cutouts` on drawn
composites. The mean of their maps is coarse; `offline.py` finds the outlines.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

FILE = Path(__file__).with_name("segmenter.safetensors")
"""The trained weights: `N.NAME` is a tensor of the network N. Large ones are int8."""

SIDE = 128
"""The side in pixels of the squares that the networks were trained with."""

SIDES = (128, 160, 192)
"""The sides at which the networks see an image, each also mirrored: their mean has fewer errors."""

# Channels at a half, a quarter, 1/8, 1/16 and 1/32 of the input's sides.
CHANNELS = (16, 32, 56, 96, 112)


def _normed(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 3 x 3 with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
    )


class _Residual(nn.Module):
    """Two convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _normed(channels, channels)
        self.second = _normed(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class _Global(nn.Module):
    """Adds to every place what the whole image shows on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.mix(x.mean(dim=(2, 3)))[..., None, None])


class Segmenter(nn.Module):
    """Computes the logits that a pixel belongs to the subject."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth, least = CHANNELS
        self.stem = _normed(5, half, 2)
        self.quarter = nn.Sequential(_normed(half, quarter, 2), nn.ReLU(), _Residual(quarter))
        self.eighth = nn.Sequential(
            _normed(quarter, eighth, 2), nn.ReLU(), _Residual(eighth), _Residual(eighth)
        )
        self.sixteenth = nn.Sequential(
            _normed(eighth, sixteenth, 2), nn.ReLU(), _Residual(sixteenth), _Residual(sixteenth)
        )
        self.deepest = nn.Sequential(
            _normed(sixteenth, least, 2),
            nn.ReLU(),
            _Residual(least),
            _Global(least),
            _Residual(least),
            _Global(least),
        )
        self.join_sixteenth = _normed(least + sixteenth, sixteenth)
        self.join_eighth = _normed(sixteenth + eighth, eighth)
        self.join_quarter = _normed(eighth + quarter, quarter)
        self.join_half = _normed(quarter + half, half)
        self.refine = nn.Sequential(_Residual(half), nn.Conv2d(half, 1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits at half the input's size.

        Args:
            image: `(batch, 3, height, width)` from -1 to 1, sides multiples of 32.

        Returns:
            `(batch, 1, height / 2, width / 2)`.
        """
        half = torch.relu(self.stem(torch.cat([image, _places(image)], dim=1)))
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        x = _doubled(self.deepest(sixteenth))
        x = _doubled(torch.relu(self.join_sixteenth(torch.cat([x, sixteenth], dim=1))))
        x = _doubled(torch.relu(self.join_eighth(torch.cat([x, eighth], dim=1))))
        x = _doubled(torch.relu(self.join_quarter(torch.cat([x, quarter], dim=1))))
        x = torch.relu(self.join_half(torch.cat([x, half], dim=1)))
        return self.refine(x)


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _places(image: torch.Tensor) -> torch.Tensor:
    """Each pixel's x and y from -1 to 1: subjects are seldom at the edge."""
    batch, _, height, width = image.shape
    y = torch.linspace(-1, 1, height, dtype=image.dtype).view(1, 1, height, 1)
    x = torch.linspace(-1, 1, width, dtype=image.dtype).view(1, 1, 1, width)
    shape = batch, 1, height, width
    return torch.cat([x.expand(shape), y.expand(shape)], dim=1)


def as_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """`(batch, SIDE, SIDE, 3)` uint8 as a network takes it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@cache
def _trained() -> tuple[Segmenter, ...]:
    networks = []
    for weights in unpack(load_file(FILE)):
        network = Segmenter()
        network.load_state_dict(weights)  # copies into float32
        networks.append(network.eval())
    return tuple(networks)


def unpack(stored: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The weights of each network of a file.

    Args:
        stored: int8 tensors are multiplied by `N.NAME.scale`, which has a value for each output
            channel.
    """
    networks: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in stored.items():
        number, _, name = key.partition(".")
        weights = networks.setdefault(int(number), {})
        if value.dtype == torch.int8:
            scale = stored[f"{key}.scale"].float()
            weights[name] = value * scale.view(-1, *[1] * (value.ndim - 1))
        elif not name.endswith(".scale"):
            weights[name] = value
    return [networks[number] for number in sorted(networks)]


def subject_logits(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How likely each pixel is the subject's, as logits: 0 is even, 6 is 400 to 1.

    Args:
        image: `(height, width, 3)` RGB uint8.

    Returns:
        `(height, width)`.
    """
    height, width = image.shape[:2]
    total = np.zeros((height, width), np.float32)
    for side in SIDES:
        square = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        seen = as_input(np.stack([square, square[:, ::-1]]))
        with torch.inference_mode():
            logits = torch.stack([network(seen) for network in _trained()]).mean(dim=0)[:, 0]
            both = (logits[0] + logits[1].flip(-1)) / 2
        total += cv2.resize(both.numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return total / np.float32(len(SIDES))
