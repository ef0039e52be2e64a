"""The training images of the network that cuts subjects out, and its training."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dream_o.references.segmenter import SIDE, Segmenter, as_input, unpack
from training.cutouts.__main__ import loss_of, train, write
from training.cutouts.composites import compose, draw
from training.cutouts.grounds import GROUNDS
from training.cutouts.subjects import SUBJECTS
from training.cutouts.textures import TEXTURES, draw_palette


@pytest.mark.parametrize("name", TEXTURES)
def test_a_texture_covers_its_area(name):
    random = np.random.default_rng(0)
    image = TEXTURES[name](random, 40, 60, draw_palette(random))
    assert image.shape == (40, 60, 3)
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subjects_parts_are_within_its_square(name):
    parts = list(SUBJECTS[name][0](64, np.random.default_rng(1)))
    assert parts
    assert 0.01 < np.max(parts, axis=0).mean() < 0.95


@pytest.mark.parametrize("name", GROUNDS)
def test_a_ground_is_a_whole_image(name):
    assert GROUNDS[name][0](np.random.default_rng(1), 64).shape == (64, 64, 3)


def test_kinds_have_shares_of_one_whole():
    for kinds in (SUBJECTS, GROUNDS):
        assert sum(share for _, share in kinds.values()) == pytest.approx(1)


def test_a_seed_gives_the_same_drawings_and_composites():
    first, second = draw(5, 48), draw(5, 48)
    assert np.array_equal(first.subject, second.subject)
    assert np.array_equal(first.ground, second.ground)
    assert not np.array_equal(first.ground, draw(6, 48).ground)
    images = [
        compose(each.subject, each.ground, np.random.default_rng(3), 32) for each in (first, second)
    ]
    assert np.array_equal(images[0][0], images[1][0])
    assert np.array_equal(images[0][1], images[1][1])


def test_the_mask_is_where_the_subject_is():
    white = np.full((48, 48, 4), 255, np.uint8)
    white[:, :8, 3] = white[:, -8:, 3] = 0
    black = np.zeros((48, 48, 3), np.uint8)
    agree = []
    for seed in range(30):
        image, mask = compose(white, black, np.random.default_rng(seed), 64)
        subject, ground = image[mask > 250], image[mask < 5]
        if len(subject) and len(ground):
            agree.append(float(subject.mean()) - float(ground.mean()))
    assert len(agree) > 20
    assert min(agree) > 40


def test_the_loss_is_least_for_the_true_mask():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    true, shifted = 20 * (mask - 0.5), 20 * (mask.roll(1, dims=-1) - 0.5)
    assert loss_of(true, mask) < 0.01 < loss_of(shifted, mask) < loss_of(-true, mask)


def test_training_lowers_the_loss(monkeypatch):
    monkeypatch.setattr("training.cutouts.__main__.FIRST", 4)
    few = [draw(seed, 48) for seed in range(4)]
    network = train(itertools.cycle(few), steps=12, batch=4)
    images, masks = zip(
        *(compose(e.subject, e.ground, np.random.default_rng(9), SIDE) for e in few), strict=True
    )
    true = torch.from_numpy(np.stack(masks))[:, None].float() / 255
    true = torch.nn.functional.avg_pool2d(true, 2)
    torch.manual_seed(0)
    with torch.no_grad():
        learnt = loss_of(network(as_input(np.stack(images))), true)
        fresh = loss_of(Segmenter().eval()(as_input(np.stack(images))), true)
    assert learnt < fresh


def test_the_written_file_holds_the_networks(tmp_path):
    torch.manual_seed(0)
    networks = [Segmenter(), Segmenter()]
    write(networks, tmp_path / "networks.safetensors")
    stored = load_file(tmp_path / "networks.safetensors")
    assert stored["0.stem.0.weight"].dtype == torch.float16
    assert stored["1.deepest.0.0.weight"].dtype == torch.int8
    read = unpack(stored)
    assert len(read) == 2
    for network, weights in zip(networks, read, strict=True):
        Segmenter().load_state_dict(weights)
        for name, value in network.state_dict().items():
            largest = value.abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True)
            # Half a step of 127, and the rounding of float16.
            close = (weights[name] - value).abs() <= largest * (0.5 / 127 + 1e-3) + 1e-5
            assert close.all(), name
