"""Loads Stable Diffusion checkpoints from disk and decides which stay in memory."""

import gc
import logging
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import SafetensorError
from transformers import CLIPTokenizer

from dream_o.dream_render.painting import dpmpp_2m_karras
from dream_o.dream_render.registry import ModelEntry
from dream_o.errors import BundleError, InputError
from dream_o.service.cache import ByteBoundedCache
from dream_o.weights.format.tensors import read_header

logger = logging.getLogger(__name__)

PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
# No safety checker is loaded, because the embedded and the usual checkpoints have none.
WITHOUT: dict[str, dict[str, Any]] = {
    "sd15": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    "sdxl": {"add_watermarker": False},
}
TOKENIZERS = {"sd15": ("tokenizer",), "sdxl": ("tokenizer", "tokenizer_2")}
# The configurations of the components, which a single file does not contain.
CONFIGS = Path(__file__).with_name("configs")

# Weight files of a diffusers folder, component by component.
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
# The prefix of the VAE's tensors in a single file.
SINGLE_FILE_VAE = "first_stage_model."


def load_checkpoint(entry: ModelEntry, device: torch.device, dtype: torch.dtype) -> Any:
    """Loads the entry's pipeline from local files, with the project's sampler.

    Raises:
        InputError: `model` is not installed, or its files cannot be loaded.
    """
    if not entry.installed:
        raise InputError(
            "model",
            f"{entry.name} is not on this machine; fetch it with "
            f"`dream-o render download {entry.name}`, or use a model that "
            "`dream-o render models` shows as installed",
        )
    load = _from_single_file if entry.single_file else _from_folder
    try:
        replaced = {"vae": _vae(entry.vae.path, dtype)} if entry.vae else {}
        pipeline = load(entry, dtype, **replaced, **WITHOUT[entry.family])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(
            "model", f"{entry.name}: its files are missing, damaged or of another kind"
        ) from error
    pipeline.scheduler = dpmpp_2m_karras(pipeline.scheduler.config)
    return pipeline.to(device)


def _from_folder(entry: ModelEntry, dtype: torch.dtype, **components: Any) -> Any:
    return PIPELINES[entry.family].from_pretrained(
        entry.source.path,
        dtype=dtype,
        variant=entry.variant,
        use_safetensors=True,
        local_files_only=True,
        **components,
    )


def _from_single_file(entry: ModelEntry, dtype: torch.dtype, **components: Any) -> Any:
    assert entry.tokenizer is not None  # the registry refuses single files without one
    tokenizers = {
        name: CLIPTokenizer.from_pretrained(entry.tokenizer.path / name, local_files_only=True)
        for name in TOKENIZERS[entry.family]
    }
    return PIPELINES[entry.family].from_single_file(
        str(entry.source.path),
        config=str(CONFIGS / entry.family),
        dtype=dtype,
        local_files_only=True,
        **tokenizers,
        **components,
    )


def _vae(path: Path, dtype: torch.dtype) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(
        path, dtype=dtype, use_safetensors=True, local_files_only=True
    )


def checkpoint_bytes(entry: ModelEntry, dtype: torch.dtype) -> int:
    """Bytes of memory that the checkpoint needs in `dtype`, computed from its files' headers."""
    elements = 0
    for path in _weight_files(entry):
        try:
            tensors, _ = read_header(path)
        except (BundleError, OSError):
            continue  # loading the checkpoint reports what is wrong with the file
        elements += sum(
            torch.Size(each.shape).numel()
            for name, each in tensors.items()
            if not (entry.vae and name.startswith(SINGLE_FILE_VAE))
        )
    return elements * dtype.itemsize


def _weight_files(entry: ModelEntry) -> list[Path]:
    replacement = list(entry.vae.path.glob("*model.safetensors")) if entry.vae else []
    if entry.single_file:
        return [entry.source.path, *replacement]
    infix = f".{entry.variant}" if entry.variant else ""
    return replacement + [
        path
        for component in COMPONENTS
        if not (entry.vae and component == "vae")
        for path in (entry.source.path / component).glob(f"*model{infix}.safetensors")
    ]


class CheckpointCache:
    """Keeps loaded checkpoints; unloads the least recently used to make room for a new one.

    Args:
        limit: the most bytes of all loaded checkpoints together; a larger checkpoint is kept alone.
        load: loads an entry's pipeline.
        measure: gives the bytes that an entry's pipeline needs.
    """

    def __init__(
        self,
        limit: int,
        load: Callable[[ModelEntry], Any],
        measure: Callable[[ModelEntry], int],
    ) -> None:
        self.load = load
        self.measure = measure
        self.loaded: ByteBoundedCache[Any] = ByteBoundedCache(limit, _unloaded)

    def get(self, entry: ModelEntry) -> Any:
        """The entry's pipeline; if it is not loaded yet, makes room and then loads it."""
        return self.loaded.get_or_load(entry.name, lambda: self.load(entry), self.measure(entry))


def _unloaded(name: Hashable) -> None:
    logger.info("model %s: unloaded to make room", name)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
