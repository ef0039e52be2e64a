"""The benchmark of cut-outs: composites with true masks, and what is reported of them."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks import composites
from benchmarks.composites import DRAWN, compose, overlap, own_subjects, read_subjects
from benchmarks.cutouts import run
from dream_o.errors import UserError
from training.cutouts.grounds import GROUNDS


def save_disc(path, ground, size=(200, 160)):
    image = np.full((size[1], size[0], 3), ground, np.uint8)
    cv2.circle(image, (100, 80), 50, (30, 120, 60), -1)
    cv2.circle(image, (100, 80), 15, (255, 255, 255), -1)
    Image.fromarray(image).save(path)


def test_overlap_is_intersection_over_union():
    left, middle = np.zeros((2, 10, 10), np.uint8)
    left[:, :6] = middle[:, 3:6] = 255
    assert overlap(left, middle) == 0.5
    assert overlap(left, left) == 1


def test_masks_of_images_on_white_hold_white_inside_the_subject(tmp_path):
    save_disc(tmp_path / "disc.png", 255)
    save_disc(tmp_path / "scene.png", 90)
    (subject,) = read_subjects(tmp_path)
    assert subject.name == "disc"
    true = np.zeros((160, 200), np.uint8)
    cv2.circle(true, (100, 80), 48, 255, -1)
    assert overlap(subject.mask, true) > 0.97


def test_a_composite_is_the_subject_where_its_mask_is_and_the_ground_elsewhere(tmp_path):
    save_disc(tmp_path / "disc.png", 255)
    (subject,) = read_subjects(tmp_path)
    scene = np.full((160, 200, 3), (200, 40, 40), np.uint8)
    composite = compose(subject, "red", scene)
    assert tuple(composite.image[80, 70]) == (30, 120, 60)
    assert tuple(composite.image[80, 100]) == (255, 255, 255)
    assert tuple(composite.image[5, 5]) == (200, 40, 40)


def test_drawn_subjects_are_the_same_every_time():
    first, second = (list(own_subjects(3)) for _ in range(2))
    assert [each.name for each in first] == [each.name for each in second]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.image, other.image)
        assert 0.02 < one.mask.mean() / 255 < 0.9


def test_every_ground_has_a_row_and_the_drawn_composites_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(composites, "OWN_SIDE", 192)
    run(tmp_path, count=1)
    report = json.loads((tmp_path / "cutouts.json").read_text())
    assert [row["ground"] for row in report["rows"]] == [*DRAWN, *GROUNDS]
    assert all(0 <= row["overlap"] <= 1 and row["seconds"] >= 0 for row in report["rows"])
    assert report["composites"] == len(report["rows"])
    assert report["command"] == "script/bench cutouts --count 1"
    assert "(cutouts.webp)" in (tmp_path / "cutouts.md").read_text()
    assert Image.open(tmp_path / "cutouts.webp").width > 300


def test_images_of_ones_own_can_be_measured_and_are_not_shown(tmp_path):
    own, output = tmp_path / "own", tmp_path / "report"
    own.mkdir()
    save_disc(own / "disc.png", 255)
    save_disc(own / "scene.png", 90)
    run(output, subjects=own, grounds=own)
    report = json.loads((output / "cutouts.json").read_text())
    assert report["rows"][-1]["ground"] == "photograph"
    assert report["command"] == "script/bench cutouts --subjects own --grounds own"
    assert not (output / "cutouts.webp").exists()


def test_a_folder_without_images_on_white_is_refused(tmp_path):
    save_disc(tmp_path / "scene.png", 90)
    with pytest.raises(UserError, match="holds no image on white"):
        run(tmp_path / "report", subjects=tmp_path)
