from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch

from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.request import RenderRequest
from dream_o.page.latent_preview import RenderPreview
from tests.page.conftest import SETTINGS
from tests.page.served import KEY

REQUEST = RenderRequest(
    model="miniature", prompt="a red shoe", width=256, height=192, seed=5, steps=6
)


@pytest.fixture(scope="module")
def render():
    return DreamRender.load(SETTINGS)


def previews(render, request, preview):
    """Runs a request; returns its result, and the preview of each step but the first."""
    latents, drawn = [], []

    def on_step(step, after):
        if latents:
            drawn.append(preview.draw(request.model, latents[-1], after))
        latents.append(after)

    return render.generate(request, KEY, on_step).image, drawn


@pytest.fixture(scope="module")
def preview(render):
    return RenderPreview(lambda name: render.checkpoints.get(render.registry.models[name]))


def test_previews_show_the_image_long_before_it_is_done(render, preview):
    request = replace(REQUEST, width=512, height=512)  # the size that the checkpoint was trained at
    image, drawn = previews(render, request, preview)
    assert [each.size for each in drawn] == [(64, 64)] * 5
    final = np.asarray(image.resize((64, 64)), float)
    errors = [float(np.abs(np.asarray(each, float) - final).mean()) for each in drawn]
    grey = float(np.abs(final - final.mean()).mean())
    assert errors[-1] < grey / 3
    assert errors[2] < grey
    assert image.tobytes() == render.generate(request, KEY).image.tobytes()


def test_a_second_pass_begins_without_a_preview(render, preview):
    image, drawn = previews(render, replace(REQUEST, enable_hr=True), preview)
    sizes = [each and each.size for each in drawn]
    assert sizes[:5] == [(32, 24)] * 5
    assert sizes[5] is None
    assert set(sizes[6:]) == {(64, 48)}
    assert image.size == (512, 384)


def test_if_the_vae_overflows_there_is_no_preview(render, preview, monkeypatch):
    broken = RenderPreview(preview.checkpoint)
    broken.map = lambda model: torch.full((5, 3), torch.nan)
    _, drawn = previews(render, REQUEST, broken)
    assert set(drawn) == {None}


def test_the_page_shows_a_preview_after_each_step_but_the_first(desk):
    *events, _ = desk.run([desk.render_job(REQUEST, KEY)], Event())
    shown = [event.preview and event.preview.size for event in events]
    assert shown == [None, None, *[(32, 24)] * 5]
