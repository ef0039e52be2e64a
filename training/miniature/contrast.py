"""What the negative pass learns: images that exaggerate the one thing that its prompt names.

True CFG moves an image away from what the negative pass draws, by the difference of both passes. If
the negative pass drew "red" paler than the positive pass draws a red mug, the mug would become
redder; if equally red, nothing would move. So its targets exaggerate the named attribute: they are
REACH times as far beyond the true image as this image is from the mean of its alternatives (mugs in
the other colours). At `true_cfg=2` the result is equally far from the true image, in the direction
of that mean.

The noisy images that the negative pass sees lie between the true image and this result, because
that is where true CFG takes them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.miniature.autoencoder import to_unit
from training.miniature.examples import Example, alternatives
from training.miniature.tokens import Chosen
from training.world.drawing import Contents, draw_tiles

# In a trial with REACH = 1 and a tenth of the recipe's steps, red things became only a little less
# red.
REACH = 1.5


def chosen_colours(
    examples: Sequence[Example],
    size: tuple[int, int],
    chosen: Chosen,
    random: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The colours of the selected tokens, and by how much each exaggerates what the prompt names.

    Args:
        examples: the batch.
        size: the rows and columns of the images.
        chosen: the selected tokens.
        random: the sprinkled tiles.

    Returns:
        The colours `(batch, chosen, 3)` from -1 to 1, and the excess, of the same shape; it is 0
        for examples whose prompt does not name an attribute `alone`.
    """
    rows, columns = chosen.rows.numpy(), chosen.columns.numpy()

    def seen(contents: Contents, seed: int) -> NDArray[np.uint8]:
        return draw_tiles(contents, *size, np.random.default_rng(seed))[rows, columns]

    colours, excess = [], []
    for example in examples:
        seed = int(random.integers(2**62))
        colours.append(seen(example.contents, seed))
        others = [seen(each, seed) for each in alternatives(example)] if example.alone else []
        beyond = colours[-1] - np.mean(others, axis=0) if others else 0.0 * colours[-1]
        excess.append(REACH * beyond)
    return to_unit(np.stack(colours)), torch.from_numpy(np.stack(excess)).float() / 127.5
