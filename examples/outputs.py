"""Draws the miniature's outputs that the README and the page show, with the embedded bundle.

Run it from the clone's root: `.venv/bin/python -m examples.outputs`.
"""

import logging

from tqdm import tqdm

from dream_o.images.writing import write_image
from dream_o.page.examples import examples_of
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from dream_o.weights.fetch.locate import MINIATURE

# The quality that `predict.py` has as its default.
QUALITY = 90


def main() -> None:
    """Draws every output that `dream_o/page/examples.toml` names for the miniature."""
    logging.disable(logging.WARNING)  # the miniature says before each image that it is a toy
    dream_o = DreamO.load(Settings(device="cpu", weights=MINIATURE))
    dream_o.pipeline.set_progress_bar_config(disable=True)
    shown = [each for each in examples_of(miniature=True) if each.output is not None]
    for example in tqdm(shown, unit="image"):
        assert example.output is not None
        references = tuple(Reference(file, task) for file, task in example.references)
        result = dream_o.generate(Request(references=references, **example.inputs))
        kind, folder = example.output.suffix[1:], example.output.parent
        output = {"output_format": kind, "output_quality": QUALITY}
        path = write_image(result.image, kind, QUALITY, result.metadata | output, folder)
        path.replace(example.output)


if __name__ == "__main__":
    main()
