"""Single files of FLUX.1-dev's models, as ComfyUI's users have them, in place of a folder's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.weights.build.bfl_layout import transformer_of, vae_of
from dream_o.weights.format.tensors import Entry, Stored, read_header

# CLIP's tensors that only its image model needs, and T5's tokenizer, which some files hold too.
IGNORED = ("text_projection.weight", "logit_scale", "spiece_model")


@dataclass(frozen=True)
class SingleFiles:
    """A file for each model of the base, or None where the base's folder has it.

    Attributes:
        transformer: such as `flux1-dev.safetensors`.
        text_encoder: CLIP, such as `clip_l.safetensors`.
        text_encoder_2: T5, such as `t5xxl_fp16.safetensors`.
        vae: such as `ae.safetensors`.
    """

    transformer: Path | None = None
    text_encoder: Path | None = None
    text_encoder_2: Path | None = None
    vae: Path | None = None

    def given(self) -> dict[str, Path]:
        """The files that there are, by component."""
        return {name: path for name, path in vars(self).items() if path is not None}


def read_single(component: str, path: Path) -> dict[str, Stored]:
    """A model's tensors by diffusers' and transformers' names; only the header is read.

    Raises:
        BundleError: no safetensors file, another model's, or one in eight bits.
    """
    entries, _ = read_header(path)
    eight = next((key for key, entry in entries.items() if entry.dtype.itemsize == 1), None)
    if eight is not None and eight not in IGNORED:
        raise BundleError(
            f"{path.name}: {eight} is stored in eight bits, so that merging the adapters would "
            "round it twice; use the file in 16 bits, and quantize the bundle afterwards"
        )
    return READERS[component](entries, path.name)


def _text(entries: Mapping[str, Entry], file: str) -> dict[str, Stored]:
    return {key: entry for key, entry in entries.items() if key not in IGNORED}


READERS: Mapping[str, Callable[[Mapping[str, Entry], str], dict[str, Stored]]] = {
    "transformer": transformer_of,
    "text_encoder": _text,
    "text_encoder_2": _text,
    "vae": lambda entries, file: vae_of(entries),
}
