"""Refuses bad requests before a model is loaded.

The service applies the same rules again when it generates. Applied here, a mistake is reported at
once instead of after loading.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import cog

from dream_o.dream_render.keys import check_dev_key
from dream_o.dream_render.registry import read_registry
from dream_o.dream_render.request import RenderRequest, check_render_request
from dream_o.service.checks import check_inputs, check_references, request_of
from dream_o.service.logs import silence
from dream_o.service.request import Request
from dream_o.service.seeds import check_seed
from dream_o.service.settings import Settings


def check_before_loading(inputs: Mapping[str, Any]) -> None:
    """Checks the inputs by the rules of their kind of request, if CHECKS has it.

    Args:
        inputs: every input of `predict`, files opened.

    Raises:
        InputError: what is wrong with which input.
        SettingError: an environment variable has a bad value.
    """
    for kind, check in CHECKS:
        names = {field.name for field in fields(kind)} - {"references"}
        if names <= set(inputs):
            with silence():  # `generate` logs the same
                check(inputs, {name: inputs[name] for name in names})
            return


def _check_dream_o(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> None:
    settings = Settings.from_environ()
    request = request_of(inputs)
    check_inputs(request)
    check_references(request, settings.references)


def _check_render(inputs: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    key = inputs.get("dev_key")
    given = key.get_secret_value() if isinstance(key, cog.Secret) else None
    settings = Settings.from_environ()
    check_dev_key(given or "", settings.dev_keys, settings.dev_key_hashes)
    request = RenderRequest(**own)
    check_render_request(request, read_registry().models)
    check_seed(request.seed)


CHECKS: tuple[tuple[type, Callable[[Mapping[str, Any], Mapping[str, Any]], None]], ...] = (
    (Request, _check_dream_o),
    (RenderRequest, _check_render),
)
"""Kinds of request with their checks. A predictor is of a kind if its inputs include all fields."""
