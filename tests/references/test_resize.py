"""Sizes of reference images."""

import math

import cv2
import numpy as np
import pytest

from dream_o.references.resize import limit_longest_side, resize_to_area


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_two_hundred_random_sizes_are_opencvs_area_result_bit_by_bit():
    sizes = np.random.default_rng(7)
    for round_ in range(200):
        height, width = map(int, sizes.integers(16, 900, 2))
        resolution = int(sizes.integers(256, 1025))
        image = noise(height, width, round_)
        scale = math.sqrt(resolution**2 / (height * width))
        rows, columns = int(height * scale), int(width * scale)
        rows, columns = rows - rows % 16, columns - columns % 16
        resized = resize_to_area(image, resolution)
        if rows and columns:
            assert resized.shape == (rows, columns, 3)
            expected = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
            assert np.array_equal(resized, expected)
        assert resized.shape[0] % 16 == resized.shape[1] % 16 == 0


@pytest.mark.parametrize("size", [(512, 512), (432, 576), (1024, 256)])
def test_an_image_of_the_target_size_passes_unchanged(size):
    image = noise(*size)
    assert resize_to_area(image, 512) is image


def test_extreme_proportions_keep_a_side():
    assert resize_to_area(noise(16, 320), 256).shape == (48, 1136, 3)
    assert min(resize_to_area(noise(20, 2000), 64).shape[:2]) == 16


def test_longest_side_is_limited_and_small_images_are_left():
    assert limit_longest_side(noise(300, 1500), 1024).shape == (205, 1024, 3)
    image = noise(300, 200)
    assert limit_longest_side(image, 1024) is image
