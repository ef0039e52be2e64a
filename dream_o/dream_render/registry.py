"""The models that a request can name, and where their files are. Imports no model library."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dream_o.errors import UserError
from dream_o.paths import MODELS, SHIPPED, WEIGHTS
from dream_o.weights.fetch.address import HubAddress, is_hub_address, parse_address

REGISTRY = MODELS
# Where `download` puts files: owner / name of the hub's repository.
DOWNLOADS = WEIGHTS / "checkpoints"
FAMILIES = ("sd15", "sdxl")
# The sampler of every model: see `painting.dpmpp_2m_karras`.
SAMPLER = "DPM++ 2M Karras"

# Files of a diffusers folder, by part; `{infix}` is empty or a variant with its dot.
PARTS: Mapping[str, tuple[str, ...]] = {
    "": ("model_index.json",),
    "scheduler": ("scheduler_config.json",),
    "text_encoder": ("config.json", "model{infix}.safetensors"),
    "text_encoder_2": ("config.json", "model{infix}.safetensors"),
    "tokenizer": ("vocab.json", "merges.txt", "tokenizer_config.json"),
    "tokenizer_2": ("vocab.json", "merges.txt", "tokenizer_config.json"),
    "unet": ("config.json", "diffusion_pytorch_model{infix}.safetensors"),
    "vae": ("config.json", "diffusion_pytorch_model{infix}.safetensors"),
}
ONLY_SDXL = ("text_encoder_2", "tokenizer_2")
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
PROMPT_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class Source:
    """A folder or a file, on this disk or in a repository of the hub.

    Attributes:
        text: a path, relative to the project's root or absolute, or
            `hf://owner/repository[@revision][/file]`.
    """

    text: str

    def __post_init__(self) -> None:
        if self.on_hub:
            parse_address(self.text)

    @property
    def on_hub(self) -> bool:
        return is_hub_address(self.text)

    @property
    def hub_address(self) -> HubAddress:
        """The address on the hub; raises BundleError if it has another format."""
        return parse_address(self.text)

    @property
    def path(self) -> Path:
        """Where the folder or file is on this disk, or will be after the download."""
        if not self.on_hub:
            return SHIPPED / self.text
        address = self.hub_address
        revision = f"@{address.revision}" if address.revision else ""
        return DOWNLOADS / (address.repository + revision) / address.path


@dataclass(frozen=True)
class ModelEntry:
    """A Stable Diffusion checkpoint.

    Attributes:
        name: the value of a request's `model`.
        family: one of FAMILIES.
        source: a diffusers folder, or a `.safetensors` file with all components.
        licence: the licence's name in the model card.
        summary: a few words for the table of models.
        vae: a VAE to use instead of the checkpoint's own.
        tokenizer: a repository with the CLIP tokenizer in `tokenizer/` (and `tokenizer_2/` for
            sdxl), which only a single file needs.
        variant: the infix of a folder's weight files, such as `fp16`.
    """

    name: str
    family: str
    source: Source
    licence: str
    summary: str
    vae: Source | None = None
    tokenizer: Source | None = None
    variant: str | None = None

    @property
    def single_file(self) -> bool:
        return self.source.text.endswith(".safetensors")

    @property
    def files(self) -> list["HubFile"]:
        """The files that this model needs from the hub; empty for sources on this disk."""
        parts = [part for part in PARTS if self.family == "sdxl" or part not in ONLY_SDXL]
        tokenizers = [part for part in parts if part.startswith("tokenizer")]
        needed = []
        if self.single_file:
            needed.append(HubFile(self.source, ""))
        else:
            needed += self._of_parts(self.source, [p for p in parts if p != "vae" or not self.vae])
        if self.tokenizer:
            needed += self._of_parts(self.tokenizer, tokenizers)
        if self.vae:
            needed += [HubFile(self.vae, name) for name in VAE_FILES]
        return [each for each in needed if each.source.on_hub]

    def _of_parts(self, source: Source, parts: list[str]) -> list["HubFile"]:
        infix = f".{self.variant}" if self.variant else ""
        return [
            HubFile(source, f"{part}/{name.format(infix=infix)}".lstrip("/"))
            for part in parts
            for name in PARTS[part]
        ]

    @property
    def installed(self) -> bool:
        sources = [each for each in (self.source, self.vae, self.tokenizer) if each is not None]
        return all(each.path.exists() for each in sources if not each.on_hub) and all(
            file.path.is_file() for file in self.files
        )


@dataclass(frozen=True)
class HubFile:
    """A file of a source on the hub; `name` is empty if the source is the file itself."""

    source: Source
    name: str

    @property
    def path(self) -> Path:
        return self.source.path / self.name


@dataclass(frozen=True)
class PromptModelEntry:
    """A causal language model that continues prompts; a transformers folder."""

    name: str
    source: Source
    licence: str
    summary: str

    @property
    def files(self) -> list[HubFile]:
        names = PROMPT_MODEL_FILES if self.source.on_hub else ()
        return [HubFile(self.source, name) for name in names]

    @property
    def installed(self) -> bool:
        return self.source.path.exists() and all(file.path.is_file() for file in self.files)


@dataclass(frozen=True)
class Registry:
    """The contents of `weights/models.toml`; `default` is the model that needs no download."""

    default: str
    models: Mapping[str, ModelEntry]
    prompt_models: Mapping[str, PromptModelEntry]


def read_registry(path: Path = REGISTRY) -> Registry:
    """Reads the registry file.

    Raises:
        UserError: the file or one of its entries is wrong; says what is wrong.
    """
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
        models = {name: _entry(name, table) for name, table in document["models"].items()}
        prompt_models = {
            name: PromptModelEntry(name=name, source=Source(table.pop("source")), **table)
            for name, table in document["prompt_models"].items()
        }
        default = document["default"]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path.name}: this is not a registry of models: {error}") from error
    if default not in models:
        raise UserError(f"{path.name}: default={default!r} is not among the models")
    return Registry(default, models, prompt_models)


def _entry(name: str, table: dict[str, str]) -> ModelEntry:
    sources = {
        key: Source(table.pop(key)) for key in ("source", "vae", "tokenizer") if key in table
    }
    entry = ModelEntry(name=name, **table, **sources)  # type: ignore[arg-type]
    if entry.family not in FAMILIES:
        raise UserError(
            f"models.toml: {name}: family {entry.family!r} is not known; use "
            + " or ".join(FAMILIES)
        )
    if entry.single_file and entry.tokenizer is None:
        raise UserError(f"models.toml: {name}: a single file needs a tokenizer")
    return entry
