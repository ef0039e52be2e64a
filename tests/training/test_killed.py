"""A training that is killed and continued."""

import pytest
import torch

from tests.training.noise_pool import NoisePool
from training.miniature import denoiser as denoiser_module
from training.miniature import training
from training.miniature.autoencoder import new_autoencoder
from training.miniature.pool import fill_pool
from training.miniature.training import Density, Recipe, run
from training.parts import one_thread


def test_a_training_that_was_killed_writes_the_same_bytes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "CAPTIONS_JUDGED", 8)
    monkeypatch.setattr(training, "load_pool", lambda *_: NoisePool())
    monkeypatch.setattr(training, "save_once", lambda *_: None)
    few = Recipe(96, 1, 1, (Density("sparse", 3, 2, 8),))
    run(tmp_path / "whole", tmp_path / "one", few)

    made = denoiser_module.batch_loss
    calls = []

    def dies(*options, **named):
        calls.append(options)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*options, **named)

    monkeypatch.setattr(denoiser_module, "batch_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", tmp_path / "two", few, save_every=0.0)
    with one_thread():  # the number of threads does not change the bytes
        run(tmp_path / "killed", tmp_path / "two", few, save_every=0.0)
    assert len(calls) == 4, "the run continues at the step that was killed"
    files = {
        name: {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    }
    assert len(files["one"]) > 10
    assert files["one"] == files["two"]


def test_references_that_were_drawn_are_not_drawn_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(training, "POOL_PART", 2)
    vae, few = new_autoencoder(0), Recipe(96, 1, 1, (), pool_share=1 / 300)
    whole = training.load_pool(tmp_path, vae, few)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    filled = []

    def fill(vae, random, wanted):
        filled.append(len(wanted))
        return fill_pool(vae, random, wanted)

    files[1].unlink()
    monkeypatch.setattr(training, "fill_pool", fill)
    again = training.load_pool(tmp_path, vae, few)
    assert len(filled) == 1
    assert again.places == whole.places
    assert torch.equal(again.latents, whole.latents)
    assert sum(map(len, whole.places.values())) == len(whole.latents)
