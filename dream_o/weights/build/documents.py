"""Writes a bundle's model card, licence and notice."""

from collections.abc import Iterator
from pathlib import Path

from dream_o.weights.format.bundle import Bundle
from dream_o.weights.format.disk import size_text
from dream_o.weights.format.layout import DOCUMENTS, KINDS
from dream_o.weights.format.quantized import kind_of
from dream_o.weights.format.tensors import write_file

FLUX = "black-forest-labs/FLUX.1-dev"
DREAMO = "ByteDance/DreamO"
TURBO = "alimama-creative/FLUX.1-Turbo-Alpha"
LICENCE_NAME = "FLUX.1 [dev] Non-Commercial License"
LICENCE_LINK = f"https://huggingface.co/{FLUX}/blob/main/LICENSE.md"
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt")
"""The possible names of a source's licence file."""


def write_documents(stage: Path, bundle: Bundle, source: Path) -> None:
    """Writes the files of DOCUMENTS; equal bundles give equal bytes.

    Args:
        stage: the folder in which the bundle is being written.
        bundle: the bundle's record.
        source: the folder of the base model, or of the bundle that this one is made from. Its
            licence file is copied if it has one.
    """
    known = next((source / name for name in LICENCE_FILES if (source / name).is_file()), None)
    licence = known.read_bytes() if known else _licence().encode()
    contents = {"README.md": card(bundle).encode(), "LICENSE": licence, "NOTICE": _notice(bundle)}
    for name in DOCUMENTS:
        write_file(stage / name, [contents[name]])


def card(bundle: Bundle) -> str:
    """The model card, with the front matter that the hub reads."""
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
    yield f"{FLUX} with the adapters of {DREAMO} {bundle.model_version} merged into its"
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
    yield f"Use {steps} steps and a guidance of {guidance}, or lower if faces look glossy."
    yield ""
    yield "## How it was made"
    yield ""
    yield f"dream-o {bundle.tool_version} merged all adapters in float32 and rounded once."
    for lora in bundle.loras:
        yield f"The LoRA {lora.name} was merged with a scale of {lora.scale:g}. Its own licence"
        yield "applies."
    if bundle.precision in KINDS:
        text = kind_of(bundle.precision, "text_encoder_2")
        yield f"The transformer's linear layers are stored as {bundle.precision}, those of T5 as"
        yield f"{text}, with scales; everything else is {bundle.dtype}."
    else:
        yield f"Every tensor is {bundle.dtype}."
    yield ""
    yield "## Licence"
    yield ""
    yield f"[{LICENCE_NAME}]({LICENCE_LINK}), which applies to everyone who uses or"
    yield "redistributes these weights. See LICENSE and NOTICE."
    yield ""
    yield "## Digests"
    yield ""
    yield "dream-o checks each file against the digests in `bundle.json`."
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
        f"These weights are derived from {FLUX} and are subject to the {LICENCE_NAME}.\n"
        "The files that they were made from did not include its text. Copy it from\n"
        f"{LICENCE_LINK}\n"
        "into this file before you redistribute the weights.\n"
    )


def _notice(bundle: Bundle) -> bytes:
    lines = [
        "These weights are derived from the models below. They were changed: the adapters were",
        "merged into the transformer's weights.",
        "",
        f"{FLUX}: {LICENCE_NAME}",
        f"{DREAMO}: Apache License 2.0",
    ]
    if bundle.turbo:
        lines.append(f"{TURBO}: {LICENCE_NAME}")
    return ("\n".join(lines) + "\n").encode()
