"""The drawn world: images are deterministic and show what their captions say."""

import re
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from dream_o.references import prepare
from training.miniature.__main__ import main
from training.miniature.captions import contents_of, describe, said_of
from training.miniature.examples import TASKS, is_held_out, random_example
from training.miniature.judge import right_on_true_renders
from training.miniature.pool import key, references
from training.miniature.reading import understand
from training.world.colours import SKINS
from training.world.drawing import (
    COUNTS,
    Contents,
    Oddment,
    Person,
    Subject,
    draw_cut_out,
    draw_portrait,
    draw_thing,
    draw_tiles,
    to_image,
)
from training.world.faces import BARE, WORN
from training.world.scenes import SCENES
from training.world.subjects import ALL_SHAPES, PATTERNS, draw_subject
from training.world.words import with_noise

MUG = Subject("mug", "red", "striped")
ANN = Person("tan", "black", "long", "green")


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("scene", SCENES)
def test_an_image_depends_only_on_its_contents_and_the_seed(scene: str) -> None:
    contents = Contents(scene, MUG, ANN)
    once, again = draw_tiles(contents, 64, 64, random()), draw_tiles(contents, 64, 64, random())
    assert (once == again).all()
    assert (once != draw_tiles(contents, 64, 64, random(1))).any(), "some tiles are sprinkled"


def test_a_smaller_image_is_a_part_of_a_larger_one() -> None:
    contents = Contents("room", MUG)
    large, small = draw_tiles(contents, 64, 64, random()), draw_tiles(contents, 48, 40, random())
    same = (large[:40, :40] == small[:40, :40]).all(axis=-1)
    assert same.all(), "above the ground nothing is sprinkled indoors"


def test_a_copied_subject_has_the_same_offset_from_its_reference_at_every_size() -> None:
    frames = []
    for rows, columns in ((48, 48), (48, 64), (64, 64)):
        tiles = draw_tiles(Contents("room", MUG, copied=True), rows, columns, random())
        frames.append(tiles[-26:-4, -28:-4])
    alpha = np.asarray(draw_cut_out(MUG))[8::16, 8::16, 3][4:26, 4:28] > 0
    assert (frames[0][alpha] == frames[1][alpha]).all()
    assert (frames[0][alpha] == frames[2][alpha]).all()


def test_oddments_appear_only_in_references() -> None:
    looks = {draw_thing(Oddment(seed))[0].tobytes() for seed in range(20)}
    assert len(looks) == 20
    examples = [random_example(random(seed), ("ip",), held_out=False) for seed in range(40)]
    shown = [each.contents.subject for each in examples]
    assert any(isinstance(each, Oddment) for each in shown)
    assert all(each.references[0].shows == each.contents.subject for each in examples)


def test_a_photographed_oddment_is_off_the_grid_and_drawn_by_its_tiles() -> None:
    oddment = Oddment(3, photographed=True)
    cut_out = draw_cut_out(oddment)
    assert (cut_out.mode, cut_out.size) == ("RGBA", (512, 512))
    prepared = np.asarray(prepare(cut_out, "ip", 512, "ref_image1"), np.float32)
    means = prepared.reshape(32, 16, 32, 16, 3).mean(axis=(1, 3))
    tiles, there = draw_thing(oddment)
    assert np.abs(means - tiles).max() <= 1
    assert prepared.reshape(32, 16, 32, 16, 3).std(axis=(1, 3)).max() > 5
    assert 0.02 < there.mean() < 0.98


def test_every_subject_looks_different() -> None:
    looks = {
        draw_subject(shape, "blue", pattern)[0].tobytes()
        for shape, pattern in product(ALL_SHAPES, PATTERNS)
    }
    assert len(looks) == len(ALL_SHAPES) * len(PATTERNS)


def test_a_hat_and_glasses_change_only_the_head() -> None:
    bare = draw_tiles(Contents("room", person=ANN), 48, 48, random())
    looks = [
        draw_tiles(Contents("room", person=replace(ANN, wears=each)), 48, 48, random())
        for each in WORN
    ]
    for look in looks:
        rows, columns = np.nonzero((look != bare).any(-1))
        assert 20 < len(rows) < 400
        assert (rows.max() < 30, columns.max() < 36) == (True, True)
    assert (looks[0] != looks[1]).any()


def test_two_things_are_the_same_thing_twice() -> None:
    tiles = draw_tiles(Contents("snow", replace(MUG, count="two")), 64, 64, random())
    bare = draw_tiles(Contents("snow"), 64, 64, random())
    left, right = tiles[24:48, :24], tiles[24:48, 24:48]
    same = (left == right).all(-1) & (left != bare[24:48, :24]).any(-1)
    assert 100 < same.sum() < 400
    assert (tiles[:, 48:] == bare[:, 48:]).all()


def test_a_palette_leaves_one_ink() -> None:
    tiles = draw_tiles(Contents("beach", MUG, palette="ink"), 48, 48, random())
    assert (tiles[..., 2] >= tiles[..., 0]).all()


def test_a_cut_out_is_transparent_around_the_subject() -> None:
    image = draw_cut_out(MUG)
    assert (image.mode, image.size) == ("RGBA", (512, 512))
    alpha = np.asarray(image)[..., 3]
    assert alpha[0, -1] == 0
    assert alpha[256, 200] == 255
    prepared = np.asarray(prepare(image, "ip", 512, "ref_image1"))
    assert (prepared[alpha == 0] == 255).all()


def test_every_face_is_found() -> None:
    assert len(SKINS) == 3
    for skin, hair, length in zip(
        SKINS, ("blond", "black", "blond"), ("short", "long", "long"), strict=True
    ):
        portrait = draw_portrait(Person(skin, hair, length, "blue"))
        aligned = prepare(portrait, "id", 512, "ref_image1")
        assert aligned.size == (512, 512)


def test_the_judge_recognises_true_images() -> None:
    shown = [
        Contents("snow", MUG),
        Contents("meadow", replace(MUG, count="two")),
        Contents("beach", person=replace(ANN, wears="glasses")),
        Contents("snow", MUG, copied=True),
        Contents("night", person=ANN),
        Contents("beach", MUG, ANN, copied=True),
        Contents("room", MUG, palette="mint"),
    ]
    assert right_on_true_renders(random(), shown) == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("two yellow stars", {"shape": "star", "colour": "yellow", "count": "two"}),
        ("green boats", {"shape": "boat", "colour": "green", "count": "two"}),
        ("a pair of puppies in winter", {"shape": "dog", "count": "two", "scene": "snow"}),
        ("a car under the stars", {"shape": "car", "scene": "night"}),
        ("a man in a hat", {"wears": "hat"}),
        ("a man with a pair of glasses", {"wears": "glasses"}),
    ],
)
def test_words_are_understood(text: str, said: dict[str, str]) -> None:
    kind = "person" if "wears" in said else "subject"
    assert understand(text) == {**said, "kind": kind}


@pytest.mark.parametrize("seed", range(20))
def test_a_caption_says_what_an_image_shows(seed: int) -> None:
    ann = replace(ANN, wears=(*WORN, BARE)[seed % 3]) if seed % 2 else None
    mug = MUG if ann else replace(MUG, count=COUNTS[seed // 2 % 2])
    said = said_of(Contents("night", mug, ann))
    caption = describe(said, random(seed))
    assert contents_of(caption.said) == contents_of(said)
    read = contents_of(understand(caption.text))
    assert (read.scene, read.subject, read.person) == ("night", mug, ann)


def test_words_without_meaning_change_nothing() -> None:
    text = "a striped red mug on the beach"
    for seed in range(20):
        assert understand(with_noise(text, random(seed))) == understand(text)


def test_examples_have_the_requested_tasks_and_combinations() -> None:
    for tasks in TASKS:
        for held_out in (False, True):
            example = random_example(random(4), tasks, held_out)
            assert is_held_out(example.contents) == held_out
            assert tuple(each.task for each in example.references) == tasks


def test_a_prompt_adds_a_hat_or_glasses_to_the_person_of_a_reference() -> None:
    for tasks in (("id",), ("id", "ip")):
        worn = Counter[str]()
        for seed in range(60):
            example = random_example(random(seed), tasks, held_out=False)
            shown, person = example.references[0].shows, example.contents.person
            assert (shown.wears, shown) == (BARE, replace(person, wears=BARE))
            assert (person.wears in example.prompt) == (person.wears != BARE)
            worn[person.wears] += 1
        assert set(worn) == {BARE, *WORN}


def test_a_prompt_names_each_reference_by_its_number() -> None:
    for tasks in (("id", "ip"), ("ip", "id")):
        named = Counter[str]()
        for seed in range(100):
            example = random_example(random(seed), tasks, held_out=False)
            for name in re.findall(r"(?:person|subject) (?:in|of) \[ref#(\d)\]", example.prompt):
                named[name] += 1
                asked = "person" if f"person in [ref#{name}]" in example.prompt else "subject"
                wanted = "id" if asked == "person" else "ip"
                assert example.references[int(name) - 1].task == wanted
        assert set(named) == {"1", "2"}


@pytest.mark.parametrize(
    ("text", "mode", "size"),
    [
        ("a striped mug", "RGBA", (512, 512)),
        ("a woman with black hair", "RGB", (640, 640)),
        ("a cat in the snow", "RGB", (1024, 1024)),
    ],
)
def test_draw_writes_a_reference(tmp_path, capsys, text, mode, size) -> None:
    file = tmp_path / "new" / "drawing.png"
    assert main(["draw", text, str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    with Image.open(file) as image:
        assert (image.mode, image.size) == (mode, size)
    assert [path.name for path in file.parent.iterdir()] == ["drawing.png"]


@pytest.mark.parametrize("text", ["a bulldozer", "a beach"])
def test_draw_lists_what_it_can_draw(text, tmp_path, capsys) -> None:
    assert main(["draw", text, str(tmp_path / "out.png")]) == 1
    assert "name a heart, star, mug" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_tiles_are_sixteen_pixels() -> None:
    tiles = draw_tiles(Contents("room", MUG), 48, 64, random())
    pixels = np.asarray(to_image(tiles))
    assert pixels.shape == (768, 1024, 3)
    assert (pixels[8::16, 8::16] == tiles).all()


def test_nothing_outside_a_small_image_is_drawn() -> None:
    tiles = draw_tiles(Contents("room", MUG, ANN), 16, 24, random())
    assert tiles.shape == (16, 24, 3)


def test_every_reference_of_an_example_is_in_the_pool() -> None:
    known = {key(each) for each in references(random())}
    for tasks in TASKS:
        for seed in range(40):
            for each in random_example(random(seed), tasks, held_out=False).references:
                drawn_in_a_step = isinstance(each.shows, Oddment) and not each.shows.photographed
                assert drawn_in_a_step or key(each) in known
