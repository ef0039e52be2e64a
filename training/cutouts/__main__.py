"""Makes the networks that cut subjects out offline: `python -m training.cutouts [--output FILE]`.

They learn from composites of drawn subjects and drawn grounds (`composites.py`); no photograph is
used. The seed decides everything that is drawn; the bytes of the result depend on the processor.
"""

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from dream_o.atomic import atomic_write
from dream_o.references.segmenter import FILE, SIDE, Segmenter, as_input
from training.cutouts.composites import Drawn, compose, draw
from training.optimisers import optimisers, rate_share, set_rate

logger = logging.getLogger("training.cutouts.__main__")  # also as __main__

SEED = 1
FIRST, STEPS_EACH = 120, 2
"""Subjects, and as many grounds, before the first step; then one of both for each two steps."""
BATCH = 16
STEPS = (1500, 4500)
"""The steps of each network. The mean of the two networks' maps is better than either map."""
MUON_RATE, ADAM_RATE = 0.02, 2e-3
TOLD = 25
"""Steps between two lines of the log."""
LARGE = 10_000
"""Tensors with at least this many weights are stored in int8."""


def train(
    drawn: Iterator[Drawn],
    steps: int,
    batch: int = BATCH,
) -> Segmenter:
    """Trains a network on random combinations of the drawn subjects and grounds.

    Args:
        drawn: at least FIRST + `steps` / STEPS_EACH subjects and grounds.
        steps: how many batches.
        batch: composites in a batch.
    """
    torch.manual_seed(SEED)
    network = Segmenter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimisers_ = optimisers(network, MUON_RATE, ADAM_RATE, apart=("stem.0", "refine.1"))
    begun, mean = time.monotonic(), 1.0
    known = list(islice(drawn, FIRST))
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_batch, known, batch, 0)
        for step in range(steps):
            images, masks = coming.result()
            if step % STEPS_EACH == 0:
                known.append(next(drawn))
            coming = ahead.submit(_batch, known, batch, step + 1)
            for each in optimisers_:
                set_rate(each, rate_share(step, steps, warm_up=100, decay=0.6))
                each.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images.to(memory_format=torch.channels_last))
            loss = loss_of(logits.float(), masks)
            loss.backward()
            for each in optimisers_:
                each.step()
            mean += 0.04 * (loss.item() - mean)
            if step % TOLD == TOLD - 1 or step == steps - 1:
                spent = time.monotonic() - begun
                logger.info("step %d of %d: loss %.4f, %.0f s", step + 1, steps, mean, spent)
    return network.eval()


def loss_of(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross entropy, and one minus the overlap of each image's map with its mask."""
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, masks)
    found = torch.sigmoid(logits)
    shared = (found * masks).sum(dim=(1, 2, 3))
    either = (found + masks - found * masks).sum(dim=(1, 2, 3))
    return entropy + (1 - (shared + 1) / (either + 1)).mean()


def _batch(drawn: list[Drawn], batch: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng((SEED, step))
    pairs = [
        compose(
            drawn[random.integers(len(drawn))].subject,
            drawn[random.integers(len(drawn))].ground,
            random,
            SIDE,
        )
        for _ in range(batch)
    ]
    images, masks = (np.stack(each) for each in zip(*pairs, strict=True))
    true = torch.from_numpy(masks)[:, None].float() / 255
    return as_input(images), nn.functional.avg_pool2d(true, 2)


def pack(networks: Sequence[Segmenter]) -> dict[str, torch.Tensor]:
    """The weights as `segmenter.unpack` reads them: large tensors in int8, others in float16."""
    stored = {}
    for number, network in enumerate(networks):
        for name, value in network.state_dict().items():
            key = f"{number}.{name}"
            if value.numel() < LARGE:
                stored[key] = value.half() if value.is_floating_point() else value
                continue
            largest = value.abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True)
            # A reader multiplies by the scale in float16, so the weights are divided by that one.
            scale = (largest / 127).half().clamp(min=1e-6)
            stored[key] = (value / scale.float()).round().clamp(-127, 127).to(torch.int8)
            stored[f"{key}.scale"] = scale.flatten()
    return {key: value.contiguous() for key, value in stored.items()}


def write(networks: Sequence[Segmenter], output: Path) -> None:
    """Writes the packed weights."""
    with atomic_write(output) as file:
        file.write(save(pack(networks)))


def _be_modest() -> None:
    """Draws with one thread, and only when the training leaves time."""
    cv2.setNumThreads(1)
    os.nice(2)


def main() -> None:
    """Draws, trains and writes the networks."""
    parser = argparse.ArgumentParser(prog="python -m training.cutouts", description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=FILE, metavar="FILE", help="(default: the embedded file)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        default=STEPS,
        metavar="STEPS",
        help="steps of each network (default: %(default)s)",
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # One thread beside the one that composes: more wait for each other on a busy machine.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    networks = []
    for number, steps in enumerate(options.steps, start=1):
        logger.info("network %d of %d", number, len(options.steps))
        seeds = range(FIRST + steps // STEPS_EACH + 1)
        with multiprocessing.Pool(1, _be_modest) as process:
            drawn = process.imap(partial(draw, side=SIDE), seeds, chunksize=20)
            networks.append(train(drawn, steps))
        write(networks, options.output)


if __name__ == "__main__":
    main()
