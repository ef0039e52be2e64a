"""The contents of a bundle's folder: one table for writing, checking and loading."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

BUNDLE_FILE = "bundle.json"
UNFINISHED_FILE = ".bundle.json.partial"  # the name of BUNDLE_FILE until the bundle is complete
INDEX_FILE = "model_index.json"
DOCUMENTS = ("README.md", "LICENSE", "NOTICE")
"""Files of a bundle that are meant for people. `bundle.json` does not list them, because a model
card can be edited on the hub, and because earlier versions wrote bundles without them."""

KINDS = ("int8", "fp8", "int4")
"""The quantized precisions of a bundle."""

_JSON_ONLY = r"scheduler_config\.json"
_TOKENIZER = r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt"


def _weights(stem: str) -> str:
    return (
        rf"config\.json|{stem}(-\d{{5}}-of-\d{{5}})?\.safetensors|{stem}\.safetensors\.index\.json"
    )


@dataclass(frozen=True)
class Component:
    """One folder of a bundle.

    Attributes:
        library, class_name: the component's entry in `model_index.json`.
        files: a regular expression for the allowed file names.
        config: the required file.
        stem: the stem of its safetensors files; None for a component without weights.
    """

    library: str
    class_name: str
    files: str
    config: str
    stem: str | None = None

    def allows(self, name: str) -> bool:
        """Whether a file of this name belongs in the folder."""
        return re.fullmatch(self.files, name) is not None


def _model(library: str, class_name: str, stem: str) -> Component:
    return Component(library, class_name, _weights(stem), "config.json", stem)


COMPONENTS: Mapping[str, Component] = {
    "scheduler": Component(
        "diffusers", "FlowMatchEulerDiscreteScheduler", _JSON_ONLY, "scheduler_config.json"
    ),
    "tokenizer": Component("transformers", "CLIPTokenizer", _TOKENIZER, "tokenizer_config.json"),
    "tokenizer_2": Component(
        "transformers", "TokenizersBackend", _TOKENIZER, "tokenizer_config.json"
    ),
    "text_encoder": _model("transformers", "CLIPTextModel", "model"),
    "text_encoder_2": _model("transformers", "T5EncoderModel", "model"),
    "vae": _model("diffusers", "AutoencoderKL", "diffusion_pytorch_model"),
    "transformer": _model(
        "dream_o.transformer", "DreamOTransformer2DModel", "diffusion_pytorch_model"
    ),
}

WEIGHTED = {name: part.stem for name, part in COMPONENTS.items() if part.stem is not None}
"""The components with weights, each with the stem of its files."""


# transformers' names of T5's single embedding matrix; files have it under one or both names.
T5_MATRIX, T5_ALIAS = "shared.weight", "encoder.embed_tokens.weight"


def model_index(diffusers_version: str) -> dict[str, object]:
    """The contents of a bundle's `model_index.json`."""
    return {
        "_class_name": "DreamOPipeline",
        "_diffusers_version": diffusers_version,
        **{name: [part.library, part.class_name] for name, part in sorted(COMPONENTS.items())},
    }
