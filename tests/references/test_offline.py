"""Subjects before sceneries and heads, found without downloaded networks."""

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.composites import Subject, compose, overlap, own_scenery, own_subjects
from dream_o.references import prepare
from dream_o.references.background import grabcut_matte
from dream_o.references.offline import head_mask, offline_matte
from dream_o.references.segmenter import FILE, subject_logits
from tests.drawings import HAIR, WALL, drawn_face
from tests.references.sheet import hills, robot
from tests.references.test_background import GROUNDS, SHAPES, picture
from training.world.drawing import Person, draw_portrait


def scenes(height, width, kinds):
    """Drawn hills, and kinds of scenery as they are at seeds that the training does not use."""
    yield "hills", cv2.resize(hills(), (width, height))
    for kind in kinds:
        yield kind, own_scenery()[kind](np.random.default_rng(2**21), height, width)


def drawn_robot():
    image = robot()
    return Subject("robot", image, grabcut_matte(image))


def composites(kinds):
    for subject in (drawn_robot(), *own_subjects(4)):
        for kind, scene in scenes(*subject.mask.shape, kinds):
            yield compose(subject, kind, scene)


@pytest.mark.parametrize("ground", GROUNDS)
def test_before_plain_grounds_subjects_are_cut_out_as_before(ground):
    for seed, (name, mask) in enumerate(SHAPES.items()):
        image = picture(mask, ground, seed)
        assert overlap(offline_matte(image), mask) > 0.9, name


def test_the_networks_are_small_and_tell_a_robot_from_its_wall():
    assert FILE.stat().st_size < 3_000_000
    logits = subject_logits(robot())
    assert logits.shape == (480, 640)
    assert logits[330, 320] > 1
    assert logits[20, 20] < -1


def test_before_a_scenery_the_networks_find_far_more_than_colours_do():
    some = [each for each in composites(("landscape",)) if each.ground == "landscape"]
    assert len(some) == 5
    found, by_colour = (
        np.mean([overlap(find(each.image), each.mask) for each in some])
        for find in (offline_matte, grabcut_matte)
    )
    assert found > 0.75
    assert found > by_colour + 0.2


def test_the_matte_has_the_images_size():
    tall = cv2.resize(next(composites(())).image, (900, 1400))
    assert offline_matte(tall).shape == (1400, 900)
    for shape in ((16, 16), (16, 320), (400, 20)):
        noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        assert offline_matte(noise).shape == shape


class TestHead:
    def test_hair_and_chin_are_kept_and_the_wall_is_not(self):
        aligned = np.asarray(
            prepare(Image.fromarray(drawn_face(256, 0.5)), "id", 512, "ref_image1")
        )
        kept = (aligned < 250).any(axis=2)
        hair = np.abs(aligned.astype(int) - HAIR).max(axis=2) < 25
        assert hair[40:110, 180:330].mean() > 0.5
        assert kept[440:465, 240:272].mean() > 0.9
        wall = np.abs(aligned.astype(int) - WALL).max(axis=2) < 12
        assert wall.mean() < 0.01

    @pytest.mark.parametrize(("length", "kept"), [("long", True), ("short", False)])
    def test_long_hair_is_kept_to_the_lower_edge_and_the_shirt_is_not(self, length, kept):
        portrait = draw_portrait(Person("tan", "black", length, "red"))
        prepared = np.asarray(prepare(portrait, "id", 512, "ref_image1")).astype(int)
        beside = np.concatenate([prepared[460:, 40:130], prepared[460:, 382:472]], axis=1)
        assert ((beside < 80).all(axis=2).mean() > 0.3) == kept
        red = (prepared[..., 0] > 150) & (prepared[..., 1:] < 90).all(axis=2)
        assert red[440:].mean() < 0.02

    def test_what_cannot_be_told_apart_gives_an_oval(self):
        mask = head_mask(np.zeros((512, 512, 3), np.uint8))
        assert mask[240, 193] == mask[240, 319] == mask[371, 256] == 255
        assert mask[:30].max() == mask[:, :30].max() == mask[-20:].max() == 0
