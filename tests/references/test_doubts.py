"""A cut-out that is probably wrong is told by its matte alone."""

import numpy as np
import pytest

from dream_o.references.doubts import doubt_of


def matte(*boxes, side=200):
    made = np.zeros((side, side), np.uint8)
    for top, bottom, left, right in boxes:
        made[round(top * side) : round(bottom * side), round(left * side) : round(right * side)] = (
            255
        )
    return made


@pytest.mark.parametrize(
    "boxes",
    [
        [(0.2, 0.8, 0.3, 0.7)],
        [(0.3, 1, 0.1, 0.9)],  # a portrait, cut off by the lower edge
        [(0.5, 1, 0, 1), (0.1, 0.5, 0.3, 0.7)],  # and by the sides
        [(0.1, 0.9, 0.1, 0.45), (0.4, 0.45, 0.5, 0.55)],  # a crumb beside it
    ],
)
def test_nothing_is_said_of_a_usual_subject(boxes):
    assert doubt_of(matte(*boxes)) is None


@pytest.mark.parametrize(
    ("boxes", "begins"),
    [
        ([(0, 1, 0, 1)], "no subject was told from its background"),
        ([(0.02, 0.98, 0.02, 0.98)], "the cut-out is 92% of the image"),
        ([(0.4, 1, 0, 1)], "the cut-out touches 55% of the image's frame"),
        ([(0.1, 0.4, 0.1, 0.9), (0.6, 0.9, 0.1, 0.9)], "the cut-out is in 2 pieces"),
    ],
)
def test_one_sentence_says_what_is_doubtful_and_what_to_do(boxes, begins):
    doubt = doubt_of(matte(*boxes))
    assert doubt.startswith(begins)
    assert "transparent PNG" in doubt
    assert "." not in doubt


def test_the_sentence_is_the_same_at_another_size():
    boxes = [(0.1, 0.4, 0.1, 0.9), (0.6, 0.9, 0.1, 0.9)]
    assert doubt_of(matte(*boxes, side=3000)) == doubt_of(matte(*boxes))
