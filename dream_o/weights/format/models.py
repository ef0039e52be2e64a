"""The classes of a bundle's models, and checks of their tensors."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from dream_o.errors import BundleError
from dream_o.weights.format.layout import T5_ALIAS, T5_MATRIX
from dream_o.weights.format.tensors import Plan

# Buffers that a model computes itself; older files contain them, newer ones do not.
_BUFFERS = ("position_ids",)


def model_classes() -> dict[str, Any]:
    """The class of each component with weights; imported here because the import is slow.

    Only these classes are used, never a class name in a bundle's file.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, T5EncoderModel

    from dream_o.transformer import DreamOTransformer2DModel

    return {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
        "vae": AutoencoderKL,
        "transformer": DreamOTransformer2DModel,
    }


def check_fit(component: str, config: Mapping[str, Any], plan: Plan) -> None:
    """Compares the planned tensors with those of the model that a configuration describes.

    The model is created without memory for its tensors.

    Raises:
        BundleError: a key is missing, unknown or has another shape, or the configuration is
            invalid; names the component and the first such key.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in _empty(component, config).items()}
    found = {_stem(key): (key, planned.shape) for key, planned in plan.items()}
    for key in expected:
        if _stem(key) not in found and not _optional(key):
            raise BundleError(f"{component}: {key} is missing from the base model")
    shapes = {_stem(key): shape for key, shape in expected.items()}
    for stem, (key, shape) in found.items():
        if _optional(key):
            continue
        if stem not in shapes:
            raise BundleError(f"{component}: {key} does not belong in a model of its config.json")
        if shapes[stem] != tuple(shape):
            raise BundleError(
                f"{component}: {key} is {list(shape)}, but its config.json asks for "
                f"{list(shapes[stem])}"
            )


def check_loaded(component: str, model: torch.nn.Module, info: Mapping[str, Iterable[Any]]) -> None:
    """Raises BundleError unless every parameter of a loaded model came from its files.

    Args:
        component: the model's folder in the bundle.
        model: the loaded model.
        info: the loading info that `from_pretrained` returns.
    """
    missing = sorted(key for key in info.get("missing_keys", ()) if not _optional(key))
    missing += [name for name, each in model.named_parameters() if each.is_meta]
    if missing:
        raise BundleError(f"{component}: {missing[0]} is missing from the weights bundle")
    unexpected = sorted(key for key in info.get("unexpected_keys", ()) if not _optional(key))
    if unexpected:
        raise BundleError(f"{component}: {unexpected[0]} does not belong in the weights bundle")


def _empty(component: str, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    made_of = model_classes()[component]
    try:
        with torch.device("meta"):
            if hasattr(made_of, "config_class"):
                model = made_of(made_of.config_class.from_dict(dict(config)))
            else:
                model = made_of.from_config(dict(config))
    except Exception:  # constructors raise many kinds of errors for invalid numbers
        raise BundleError(
            f"{component}/config.json is not the configuration of a {made_of.__name__}"
        ) from None
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def _stem(key: str) -> str:
    # transformers reads CLIP's keys with and without the prefix of its text model.
    return T5_MATRIX if key == T5_ALIAS else key.removeprefix("text_model.")


def _optional(key: str) -> bool:
    return key == T5_ALIAS or key.endswith(_BUFFERS)
