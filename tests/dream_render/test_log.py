"""DreamRender's log says nothing that does not concern it."""

import logging
import subprocess
import sys

import pytest

from dream_o.dream_render.generator import DreamRender
from dream_o.service.settings import Settings
from tests import ROOT


def test_setup_says_nothing_of_references(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dream_o"):
        DreamRender.load(Settings(device="cpu", references="offline"))
    assert "DREAM_RENDER_DEV_KEYS is not set" in caplog.text
    assert "references" not in caplog.text


def test_an_image_processor_does_not_ask_for_torchvision() -> None:
    code = "import dream_o\nfrom transformers import CLIPImageProcessor\nCLIPImageProcessor()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == ""
