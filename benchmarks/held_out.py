"""Requests with drawn references that the embedded bundle was never trained on."""

from pathlib import Path

import numpy as np

from dream_o.service.request import Reference, Request
from training.miniature.evaluation import TASKS, held_out_examples
from training.miniature.pool import drawn


def held_out_requests(folder: Path, count: int, size: int, steps: int) -> list[Request]:
    """Requests that alternate over all tasks, with seeds 0, 1, ...; the same in every call.

    Args:
        folder: the folder to which the reference images are written.
        count: the number of requests.
        size: the image's side in pixels.
        steps: denoising steps.
    """
    tasks = list(TASKS)
    rounds = -(-count // len(tasks))
    examples = {task: held_out_examples(task, rounds) for task in tasks}
    requests = []
    for seed in range(count):
        example = examples[tasks[seed % len(tasks)]][seed // len(tasks)]
        random = np.random.default_rng(seed)
        references = []
        for slot, each in enumerate(example.references, start=1):
            path = folder / f"{seed}-{slot}.png"
            drawn(each, random).save(path)
            references.append(Reference(path, each.task))
        requests.append(
            Request(
                example.prompt,
                tuple(references),
                width=size,
                height=size,
                num_steps=steps,
                seed=seed,
            )
        )
    return requests
