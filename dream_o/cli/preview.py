"""`dream-o predict --preview`: each reference as sent and as the model sees it."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dream_o.errors import UserError
from dream_o.images.writing import write_image
from dream_o.service.checks import request_of

logger = logging.getLogger(__name__)

QUALITY = 90


def check_preview(predictor: Any) -> None:
    """Raises UserError if the predictor has no reference images."""
    if "ref_image1" not in inspect.signature(predictor.predict).parameters:
        raise UserError("--preview: this predictor has no reference images; leave the option out")


def draw_preview(predictor: Any, inputs: Mapping[str, Any]) -> Path | None:
    """Writes the contact sheet to a temporary file; returns None if there are no references.

    Args:
        predictor: the predictor after `setup` and `predict`; its prepared references are reused.
        inputs: the inputs that `predict` was given.
    """
    from dream_o.references.contact_sheet import reference_sheet

    prepared = [each for each in predictor.dream_o.prepare(request_of(inputs)) if each]
    if not prepared:
        logger.info("--preview: there are no references to show")
        return None
    return write_image(reference_sheet(prepared), "webp", QUALITY, {})
