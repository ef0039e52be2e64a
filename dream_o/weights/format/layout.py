"""What a bundle's folder holds: the one table that writing, checking and loading all read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

BUNDLE_FILE = "bundle.json"
UNFINISHED_FILE = ".bundle.json.partial"  # what BUNDLE_FILE is called before it counts
INDEX_FILE = "model_index.json"
DOCUMENTS = ("README.md", "LICENSE", "NOTICE")
"""What a bundle holds for people. `bundle.json` does not list them: a model card is edited on the
hub, and a bundle without them, as earlier versions wrote it, is as good."""

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
        library, class_name: what `model_index.json` says of it, as `save_pretrained` writes it.
        files: a regular expression of the only file names that it may hold.
        config: the file that it cannot be without.
        stem: how its safetensors files are called; None for a component without weights.
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
"""The components that hold tensors, each with the stem of its files."""


# transformers' names of T5's one embedding matrix; files hold it under either or both.
T5_MATRIX, T5_ALIAS = "shared.weight", "encoder.embed_tokens.weight"


def model_index(diffusers_version: str) -> dict[str, object]:
    """The contents of a bundle's `model_index.json`."""
    return {
        "_class_name": "DreamOPipeline",
        "_diffusers_version": diffusers_version,
        **{name: [part.library, part.class_name] for name, part in sorted(COMPONENTS.items())},
    }
