"""The negative pass: its targets, its loss, and which images it draws."""

from dataclasses import replace

import numpy as np
import torch

from tests.training.noise_pool import NoisePool
from training.draw import Draw
from training.miniature import denoiser as denoiser_module
from training.miniature.autoencoder import tile_latents, to_unit
from training.miniature.captions import contents_of
from training.miniature.contrast import REACH, chosen_colours
from training.miniature.denoiser import prepared_transformer
from training.miniature.encoder import Encoder
from training.miniature.examples import Example, alternatives
from training.miniature.text import new_text_encoders
from training.miniature.tokenizers import clip_tokenizer, t5_tokenizer
from training.miniature.tokens import Chosen
from training.world.colours import COLOURS


def test_the_negative_pass_exaggerates_what_its_prompt_names() -> None:
    said = {"kind": "subject", "shape": "mug", "colour": "red", "scene": "room"}
    example = Example("red", said, (), contents_of(said), alone="colour")
    body, wall = (33, 25), (20, 3)
    chosen = Chosen(*torch.tensor([body, wall]).T, torch.ones(2))
    (colours,), (excess,) = chosen_colours([example], (64, 64), chosen, np.random.default_rng(0))
    others = [
        to_unit(np.array(COLOURS[each.subject.colour], np.uint8)) for each in alternatives(example)
    ]
    assert len(others) >= len(COLOURS) - 3
    assert torch.allclose(colours[0] - excess[0] / REACH, torch.stack(others).mean(0), atol=0.01)
    assert excess[1].abs().max() == 0
    plain = [replace(example, alone="")]
    assert chosen_colours(plain, (64, 64), chosen, np.random.default_rng(0))[1].abs().max() == 0


def test_the_negative_pass_learns_the_way_to_the_exaggerated_image(monkeypatch) -> None:
    def alike(examples, size, chosen, random):
        shape = len(examples), len(chosen.rows), 3
        return torch.full(shape, 0.2), torch.full(shape, 0.4)

    def velocity(transformer, mixed, *rest):
        return (mixed - tile_latents(torch.full((3,), 0.6))) / 0.5

    monkeypatch.setattr(denoiser_module, "MIX", [((), 1.0)])
    monkeypatch.setattr(denoiser_module, "PLAIN_SHARE", 1.0)
    monkeypatch.setattr(denoiser_module, "PALE", 1.0)
    monkeypatch.setattr(denoiser_module, "chosen_colours", alike)
    monkeypatch.setattr(denoiser_module, "shift_times", lambda times, _: 0 * times + 0.5)
    monkeypatch.setattr(denoiser_module, "velocity_of", velocity)
    t5, clip = t5_tokenizer(), clip_tokenizer()
    encoder = Encoder(new_text_encoders(t5, clip, 0), t5, clip)
    transformer = prepared_transformer(encoder, 0, channels=96)
    loss = denoiser_module.batch_loss(
        transformer, encoder, NoisePool(), Draw.of(0, "x", 0), batch=2
    )
    assert float(loss) < 1e-6
