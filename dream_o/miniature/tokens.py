"""Few tokens of a picture in the place of all: which, where they are, and how much they weigh.

The drawn world's tokens can be told one by one, so a step of training sees a few of them, at the
places that they have at full size. A token that stands for n others weighs n in attention: its
key's logit gets `log n`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

BLOCK, CELL = 8, 4
# Rows and columns where the subject may be: one token of each CELL x CELL, elsewhere of a BLOCK.
FOCUS = (8, 48, 0, 48)


@dataclass(frozen=True)
class Chosen:
    """Some tokens of a grid.

    Attributes:
        rows, columns: their places in the grid, `(chosen,)` int64.
        counts: how many tokens each stands for, `(chosen,)` float32.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    counts: torch.Tensor


def choose(rows: int, columns: int, random: np.random.Generator, cell: int, focus: bool) -> Chosen:
    """One random token of every cell.

    Args:
        rows, columns: of the grid.
        random: chooses within each cell.
        cell: side of a cell, in tokens; 1 takes every token.
        focus: whether blocks outside FOCUS are one cell, whatever `cell` is above 1.
    """
    found = []
    for top in range(0, rows, BLOCK):
        for left in range(0, columns, BLOCK):
            inside = FOCUS[0] <= top < FOCUS[1] and FOCUS[2] <= left < FOCUS[3]
            side = BLOCK if focus and cell > 1 and not inside else cell
            for row in range(top, min(top + BLOCK, rows), side):
                for column in range(left, min(left + BLOCK, columns), side):
                    high = min(side, rows - row)
                    wide = min(side, columns - column)
                    place = int(random.integers(high * wide))
                    found.append((row + place // wide, column + place % wide, high * wide))
    table = torch.tensor(found)
    return Chosen(table[:, 0], table[:, 1], table[:, 2].float())


def attention_bias(text_weights: torch.Tensor, grids: list[Chosen]) -> torch.Tensor:
    """What is added to attention's logits, `(batch, 1, tokens, tokens)` float32.

    Args:
        text_weights: how many tokens each text token stands for, `(batch, text)`.
        grids: the chosen tokens of image and references. Of the tokens that one of these stands
            for, only itself is where it is, so its own key has no weight but 1.
    """
    counts = torch.cat([each.counts for each in grids]).to(text_weights.device)
    batch = len(text_weights)
    weights = torch.cat([text_weights, counts.expand(batch, -1)], dim=1).log()
    tokens = weights.shape[1]
    bias = weights[:, None, None, :].repeat(1, 1, tokens, 1)
    own = torch.arange(text_weights.shape[1], tokens)
    bias[:, :, own, own] = 0.0
    return bias


def chosen_ids(
    text_tokens: int, image: Chosen, size: tuple[int, int], references: list[Chosen], side: int
) -> torch.Tensor:
    """Position ids `(tokens, 3)` as `sampling.position_ids` gives them, of chosen tokens.

    Args:
        text_tokens: their number.
        image: tokens of the image.
        size: its rows and columns.
        references: tokens of each reference, all `side x side`.
        side: of a reference, in tokens.
    """
    grids = [torch.stack([image.rows, image.columns], dim=1)]
    for number, each in enumerate(references):
        start = torch.tensor(size) + number * side
        grids.append(torch.stack([each.rows, each.columns], dim=1) + start)
    ids = torch.nn.functional.pad(torch.cat(grids).float(), (1, 0))
    return torch.cat([torch.zeros(text_tokens, 3), ids])


def shift_times(uniform: torch.Tensor, image_tokens: int) -> torch.Tensor:
    """Noise levels as the sampler visits them at this number of tokens (`sampling.set_sigmas`)."""
    mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (image_tokens - 256)
    return math.exp(mu) * uniform / (math.exp(mu) * uniform + 1 - uniform)
