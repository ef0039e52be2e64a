"""DreamRender's log says nothing that does not concern it."""

import logging
from pathlib import Path

import pytest

from dream_o.dream_render.generator import DreamRender
from dream_o.service.settings import Settings
from tests import ROOT
from tests.forked import Forked, run_code


def test_setup_says_nothing_of_references(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dream_o"):
        DreamRender.load(Settings(device="cpu", references="offline"))
    assert "DREAM_RENDER_DEV_KEYS is not set" in caplog.text
    assert "references" not in caplog.text


def test_an_image_processor_does_not_ask_for_torchvision(tmp_path: Path) -> None:
    code = """
import sys
module = "transformers.models.clip.image_processing_clip"
assert module not in sys.modules, "its import would have asked already"
from transformers import CLIPImageProcessor
CLIPImageProcessor()
"""
    process = Forked(run_code, code, [], logs=tmp_path, folder=ROOT)
    assert process.wait() == 0, process.told
    assert process.told == ""
