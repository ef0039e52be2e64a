"""What a bundle holds for people: its model card, its licence and its notice."""

from collections.abc import Iterator
from pathlib import Path

from dream_o.weights.format.bundle import Bundle
from dream_o.weights.format.disk import size_text
from dream_o.weights.format.layout import DOCUMENTS
from dream_o.weights.format.quantized import KINDS, kind_of
from dream_o.weights.format.tensors import write_file

FLUX = "black-forest-labs/FLUX.1-dev"
DREAMO = "ByteDance/DreamO"
TURBO = "alimama-creative/FLUX.1-Turbo-Alpha"
LICENCE_NAME = "FLUX.1 [dev] Non-Commercial License"
LICENCE_LINK = f"https://huggingface.co/{FLUX}/blob/main/LICENSE.md"
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
"""Names under which a source keeps its licence."""


def write_documents(stage: Path, bundle: Bundle, source: Path) -> None:
    """Writes DOCUMENTS into a bundle's folder; the same bundle gives the same bytes.

    Args:
        stage: the folder, before it is a bundle.
        bundle: what is written there.
        source: the folder of the base model, or the bundle that this one is made from; its licence
            is copied, where it holds one.
    """
    known = next((source / name for name in LICENCE_FILES if (source / name).is_file()), None)
    licence = known.read_bytes() if known else _licence().encode()
    contents = {"README.md": card(bundle).encode(), "LICENSE": licence, "NOTICE": _notice(bundle)}
    for name in DOCUMENTS:
        write_file(stage / name, [contents[name]])


def card(bundle: Bundle) -> str:
    """The model card: what the hub shows, with the front matter that it reads."""
    return "\n".join([*_front_matter(bundle), "", *_body(bundle), ""])


def _bases(bundle: Bundle) -> list[str]:
    return [FLUX, DREAMO, *([TURBO] if bundle.turbo else [])]


def _front_matter(bundle: Bundle) -> Iterator[str]:
    yield "---"
    yield "license: other"
    yield "license_name: flux-1-dev-non-commercial-license"
    yield f"license_link: {LICENCE_LINK}"
    yield "base_model:"
    yield from (f"  - {name}" for name in _bases(bundle))
    yield f"base_model_relation: {'quantized' if bundle.precision in KINDS else 'merge'}"
    yield "pipeline_tag: text-to-image"
    yield "library_name: diffusers"
    yield "tags:"
    yield from (f"  - {tag}" for tag in ("dream-o", "DreamO", "FLUX.1-dev", "cog"))
    yield "---"


def _body(bundle: Bundle) -> Iterator[str]:
    turbo = "with" if bundle.turbo else "without"
    steps = 12 if bundle.turbo else 25
    total = size_text(sum(held.bytes for held in bundle.files.values()))
    yield f"# DreamO {bundle.model_version}, {bundle.precision}"
    yield ""
    yield f"{FLUX} with the adapters of {DREAMO} {bundle.model_version} added into its"
    yield f"transformer, {turbo} {TURBO}, as one diffusers folder of {total}. It generates"
    yield "images from a prompt and up to two reference images (an object, a face, a style)."
    yield ""
    yield "## Use"
    yield ""
    yield "```sh"
    yield "DREAM_O_WEIGHTS=hf://OWNER/THIS-REPOSITORY dream-o predict -i prompt='a toy dog'"
    yield "```"
    yield ""
    guidance = "4.5" if bundle.model_version == "v1.1" else "3.5"
    yield f"{steps} steps and a guidance of {guidance}; less where faces look glossy."
    yield ""
    yield "## How it was made"
    yield ""
    yield f"dream-o {bundle.tool_version} added every adapter in float32 and rounded once."
    for lora in bundle.loras:
        yield f"The LoRA {lora.name} was added with a scale of {lora.scale:g}; it has a licence of"
        yield "its own."
    if bundle.precision in KINDS:
        text = kind_of(bundle.precision, "text_encoder_2")
        yield f"The transformer's linear layers are stored as {bundle.precision}, those of T5 as"
        yield f"{text}, with scales; everything else is {bundle.dtype}."
    else:
        yield f"Every tensor is {bundle.dtype}."
    yield ""
    yield "## Licence"
    yield ""
    yield f"[{LICENCE_NAME}]({LICENCE_LINK}), which binds everyone who uses or passes on these"
    yield "weights. See LICENSE and NOTICE."
    yield ""
    yield "## Digests"
    yield ""
    yield "`bundle.json` holds them, and dream-o checks each file against it."
    yield ""
    yield "| file | SHA-256 |"
    yield "| --- | --- |"
    yield from (
        f"| {name} | `{held.sha256}` |"
        for name, held in sorted(bundle.files.items())
        if name.endswith(".safetensors")
    )
    if bundle.sources:
        yield ""
        yield "| made from | SHA-256 |"
        yield "| --- | --- |"
        yield from (f"| {name} | `{digest}` |" for name, digest in sorted(bundle.sources.items()))


def _licence() -> str:
    return (
        f"These weights are made from {FLUX} and are bound by the {LICENCE_NAME}.\n"
        "The text was not with the files that they were made from. It is at\n"
        f"{LICENCE_LINK}\n"
        "Put it into this file before you pass the weights on.\n"
    )


def _notice(bundle: Bundle) -> bytes:
    lines = [
        "These weights are made from the models below and were changed: the adapters were added",
        "into the transformer's weights.",
        "",
        f"{FLUX}: {LICENCE_NAME}",
        f"{DREAMO}: Apache License 2.0",
    ]
    if bundle.turbo:
        lines.append(f"{TURBO}: {LICENCE_NAME}")
    return ("\n".join(lines) + "\n").encode()
