"""Selects some of an image's tokens, with their positions and their weights in attention.

The drawn world's tokens are independent, so a training step uses only some of them, at their
positions in the full image. A token that represents n tokens has weight n in attention: `log n` is
added to its key's logits.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK, PATCH = 8, 4
Box = tuple[int, int, int, int]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """Selected tokens of a grid.

    Attributes:
        rows, columns: their positions in the grid, `(chosen,)` int64.
        counts: the number of tokens that each represents, `(chosen,)` float32.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    counts: torch.Tensor


def choose(
    rows: int,
    columns: int,
    random: np.random.Generator,
    cell: int | tuple[int, int],
    focus: Box | None = None,
    whole: Mask | None = None,
) -> Chosen:
    """One random token of every cell, and every token of `whole`.

    Args:
        rows, columns: the size of the grid.
        random: chooses within each cell.
        cell: the side of a cell in tokens, or its rows and columns; 1 selects every token.
        focus: first row, end row, first column, end column. Cells outside are whole blocks, unless
            `cell` is 1. None: all cells are inside.
        whole: a mask `(rows, columns)` of tokens that are all selected; cells have only others.
    """
    high, wide = (cell, cell) if isinstance(cell, int) else cell
    every = high * wide == 1
    taken = np.zeros((rows, columns), bool) if whole is None else whole
    found = [(row, column, 1) for row, column in np.argwhere(taken)]
    for top in range(0, rows, BLOCK):
        for left in range(0, columns, BLOCK):
            inside = focus is None or (focus[0] <= top < focus[1] and focus[2] <= left < focus[3])
            step, across = (high, wide) if inside or every else (BLOCK, BLOCK)
            for row in range(top, min(top + BLOCK, rows), step):
                for column in range(left, min(left + BLOCK, columns), across):
                    free = np.argwhere(~taken[row : row + step, column : column + across])
                    if len(free):
                        place = free[random.integers(len(free))]
                        found.append((row + place[0], column + place[1], len(free)))
    table = torch.tensor(np.array(found, dtype=np.int64))
    return Chosen(table[:, 0], table[:, 1], table[:, 2].float())


def choose_patches(side: int, random: np.random.Generator) -> tuple[Mask, Mask]:
    """Masks of patches of a reference's grid, without and with a margin of one token.

    Copying can only be learnt if all nearby tokens of the reference are present, so the image gets
    the patches and the reference the patches with their margins.

    Args:
        side: the side of the grid in tokens, an even multiple of PATCH.
        random: places one patch in each quarter of the grid.
    """
    patches, around = np.zeros((2, side, side), bool)
    half = side // 2
    for top, left in product((0, half), repeat=2):
        row, column = (int(each) for each in random.integers(0, half - PATCH + 1, 2))
        row, column = top + row, left + column
        patches[row : row + PATCH, column : column + PATCH] = True
        around[max(0, row - 1) : row + PATCH + 1, max(0, column - 1) : column + PATCH + 1] = True
    return patches, around


def moved(patches: Mask, at: tuple[int, int], size: tuple[int, int]) -> Mask:
    """A mask that is placed at `at` in a grid of `size`, and cut off at the grid's borders."""
    side = len(patches)
    canvas = np.zeros((size[0] + 2 * side, size[1] + 2 * side), bool)
    top, left = (min(max(place, -side), end) + side for place, end in zip(at, size, strict=True))
    canvas[top : top + side, left : left + side] = patches
    return canvas[side:-side, side:-side]


def attention_bias(text_weights: torch.Tensor, grids: list[Chosen]) -> torch.Tensor:
    """The bias of attention's logits, `(batch, 1, tokens, tokens)` float32.

    Args:
        text_weights: the number of tokens that each text token represents, `(batch, text)`.
        grids: the selected tokens of image and references. For itself, such a token has weight 1,
            because the other tokens that it represents have other positions.
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
    """The position ids `(tokens, 3)` of selected tokens, as `sampling.position_ids` returns them.

    Args:
        text_tokens: the number of text tokens.
        image: the selected tokens of the image.
        size: the image's rows and columns.
        references: the selected tokens of each reference.
        side: the side of the references' grids in tokens.
    """
    grids = [torch.stack([image.rows, image.columns], dim=1)]
    for number, each in enumerate(references):
        start = torch.tensor(size) + number * side
        grids.append(torch.stack([each.rows, each.columns], dim=1) + start)
    ids = torch.nn.functional.pad(torch.cat(grids).float(), (1, 0))
    return torch.cat([torch.zeros(text_tokens, 3), ids])


def shift_times(uniform: torch.Tensor, shift: float) -> torch.Tensor:
    """The noise levels that the sampler uses with this `sampling.time_shift`."""
    return math.exp(shift) * uniform / (math.exp(shift) * uniform + 1 - uniform)
