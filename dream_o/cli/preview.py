"""`dream-o predict --preview`: the references as they were sent and as the model sees them."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dream_o.cli.checks import request_of
from dream_o.errors import UserError
from dream_o.images.writing import write_image

logger = logging.getLogger(__name__)

QUALITY = 90


def check_preview(predictor: Any) -> None:
    """UserError for a predictor without reference images."""
    if "ref_image1" not in inspect.signature(predictor.predict).parameters:
        raise UserError("--preview: this predictor takes no reference images; leave it out")


def draw_preview(predictor: Any, inputs: Mapping[str, Any]) -> Path | None:
    """The contact sheet as a temporary file; None for no references.

    Args:
        predictor: after `setup` and `predict`, so that nothing is prepared a second time.
        inputs: what `predict` was given.
    """
    from dream_o.references.contact_sheet import reference_sheet

    prepared = [each for each in predictor.dream_o.prepare(request_of(inputs)) if each]
    if not prepared:
        logger.info("--preview: there are no references to show")
        return None
    return write_image(reference_sheet(prepared), "webp", QUALITY, {})
