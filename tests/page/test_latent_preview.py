import numpy as np
import pytest
import torch

from dream_o.page.latent_preview import LatentPreview
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings


@pytest.fixture(scope="module")
def miniature():
    dream_o = DreamO.load(Settings(device="cpu"), EMBEDDED_BUNDLE)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


def test_previews_show_the_image_long_before_it_is_done(miniature):
    preview = LatentPreview(miniature.pipeline)
    request = Request("a red heart on the beach", width=512, height=384, num_steps=6, seed=7)
    latents, drawn = [], []

    def on_step(step, after):
        if latents:
            drawn.append(preview.draw(latents[-1], after, step, (512, 384)))
        latents.append(after)

    image = miniature.generate(request, on_step).image
    assert [each.size for each in drawn] == [(64, 48)] * 5
    final = np.asarray(image.resize((64, 48)), float)
    errors = [float(np.abs(np.asarray(each, float) - final).mean()) for each in drawn]
    grey = float(np.abs(final - final.mean()).mean())
    assert max(errors) < grey / 3
    assert errors[-1] < grey / 6


def test_watching_the_steps_leaves_the_image_as_it_is(miniature):
    request = Request("a red heart", width=128, height=128, num_steps=3, seed=7)
    seen = []
    watched = miniature.generate(request, lambda step, latents: seen.append((step, latents.shape)))
    assert seen == [(step, torch.Size((1, 64, 64))) for step in range(3)]
    assert watched.image.tobytes() == miniature.generate(request).image.tobytes()
