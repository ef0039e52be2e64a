"""Reads FLUX.1-dev's models from single files, as used with ComfyUI, instead of a folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dream_o.errors import BundleError
from dream_o.weights.build.bfl_layout import transformer_of, vae_of
from dream_o.weights.format.tensors import Entry, Stored, read_header

# Tensors that are skipped: two that CLIP's text model does not use, and T5's tokenizer, which some
# files contain.
IGNORED = ("text_projection.weight", "logit_scale", "spiece_model")


@dataclass(frozen=True)
class SingleFiles:
    """A file for each of the base models; None for a model that is read from the base folder.

    Attributes:
        transformer: the transformer, such as `flux1-dev.safetensors`.
        text_encoder: CLIP, such as `clip_l.safetensors`.
        text_encoder_2: T5, such as `t5xxl_fp16.safetensors`.
        vae: the autoencoder, such as `ae.safetensors`.
    """

    transformer: Path | None = None
    text_encoder: Path | None = None
    text_encoder_2: Path | None = None
    vae: Path | None = None

    def given(self) -> dict[str, Path]:
        """The files that are given, by component."""
        return {name: path for name, path in vars(self).items() if path is not None}


def read_single(component: str, path: Path) -> dict[str, Stored]:
    """Reads the header of a model's single file; returns its tensors by their names in a bundle.

    Raises:
        BundleError: the file is not a safetensors file, is another model's, or has 8-bit weights.
    """
    entries, _ = read_header(path)
    eight = next((key for key, entry in entries.items() if entry.dtype.itemsize == 1), None)
    if eight is not None and eight not in IGNORED:
        raise BundleError(
            f"{path.name}: {eight} has 8-bit weights, which merging the adapters would round a "
            "second time; use the 16-bit file, then run dream-o weights quantize on the bundle"
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
