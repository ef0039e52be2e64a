"""References and prompts as the transformer takes them, each prepared and encoded once."""

import os
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import PIL.Image

from dream_o.conditioning import EncodedPrompt, EncodedReference
from dream_o.images.opening import content_hash, file_hash, open_image
from dream_o.pipeline import DreamOPipeline
from dream_o.references import Backend, log_remarks, prepare_with_remarks
from dream_o.references.prepared import Prepared
from dream_o.service.cache import ByteBoundedCache
from dream_o.service.request import Request

# The cache of references as sent, prepared and encoded. A 4 megapixel photograph takes 12 MB, its
# 1024 x 1024 version 3 MB, and its float32 latents 1 MiB on the device.
REFERENCE_BYTES = 192 * 2**20
# The cache of encoded prompts, on the device. For FLUX.1 each takes 4 MiB in bfloat16.
PROMPT_BYTES = 64 * 2**20


@dataclass
class CachedReference:
    """A reference as sent, as the model sees it, and its latents once they have been needed."""

    before: PIL.Image.Image
    after: PIL.Image.Image
    remarks: tuple[str, ...]
    encoded: EncodedReference | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of both images and of float32 latents, even before the latents are computed."""
        before = len(self.before.mode) * self.before.width * self.before.height
        return before + 4 * self.after.width * self.after.height


class References(NamedTuple):
    """A request's references.

    Attributes:
        encoded: each slot's latents, None for an empty slot.
        remarks: what a person should check, by the input's name.
    """

    encoded: list[EncodedReference | None]
    remarks: dict[str, tuple[str, ...]]


class EncodedInputs:
    """The references and prompts of requests; those of recent requests are kept.

    Args:
        pipeline: encodes them.
        backend: prepares references.
    """

    def __init__(self, pipeline: DreamOPipeline, backend: Backend) -> None:
        self.pipeline = pipeline
        self.backend = backend
        self._references: ByteBoundedCache[CachedReference] = ByteBoundedCache(REFERENCE_BYTES)
        self._prompts: ByteBoundedCache[EncodedPrompt] = ByteBoundedCache(PROMPT_BYTES)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        return self._references.bytes + self._prompts.bytes

    def prepared(self, request: Request) -> list[Prepared | None]:
        """Each slot's reference before and after preprocessing, None for an empty slot.

        A file is prepared only once for the same task and size.

        Raises:
            InputError: an image that cannot be used.
        """
        return [
            Prepared(slot, each.task, kept.before, kept.after, remarks=kept.remarks)
            if kept
            else None
            for slot, (each, kept) in enumerate(
                zip(request.references, self._cached(request), strict=True), start=1
            )
        ]

    def references(self, request: Request) -> References:
        """Each slot's latents, and the remarks; raises as `prepared` does.

        The log gets the remarks too, even if the reference was prepared for an earlier request.
        """
        cached = self._cached(request)
        remarks = {
            f"ref_image{slot}": each.remarks
            for slot, each in enumerate(cached, start=1)
            if each and each.remarks
        }
        for name, each in remarks.items():
            log_remarks(name, each)
        return References([self._encode(each) if each else None for each in cached], remarks)

    def prompt(self, text: str) -> EncodedPrompt:
        """What the text encoders make of a prompt."""
        encode = partial(self.pipeline.encode_prompt, text)
        return self._prompts.get_or_make(text, encode, attrgetter("nbytes"))

    def clear(self) -> None:
        """Forgets everything."""
        self._references.clear()
        self._prompts.clear()

    def _cached(self, request: Request) -> list[CachedReference | None]:
        return [
            self._reference(f"ref_image{slot}", each.image, each.task, request.ref_res)
            if each.image is not None
            else None
            for slot, each in enumerate(request.references, start=1)
        ]

    def _reference(
        self, name: str, file: os.PathLike[str] | str | Prepared, task: str, resolution: int
    ) -> CachedReference:
        if isinstance(file, Prepared):
            ready = CachedReference(file.before, file.after, file.remarks)
            key = (content_hash(file.after), task, "prepared")
            return self._references.get_or_make(key, lambda: ready, attrgetter("nbytes"))

        def make() -> CachedReference:
            before = open_image(file, name)
            after, remarks = prepare_with_remarks(before, task, resolution, name, self.backend)
            return CachedReference(before, after, remarks)

        hashed = (file_hash(file, name), task, resolution)
        return self._references.get_or_make(hashed, make, attrgetter("nbytes"))

    def _encode(self, reference: CachedReference) -> EncodedReference:
        if reference.encoded is None:
            reference.encoded = self.pipeline.encode_reference(reference.after)
        return reference.encoded
