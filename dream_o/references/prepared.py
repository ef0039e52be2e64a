"""A reference before and after preprocessing."""

from dataclasses import dataclass

from PIL import Image

from dream_o.references.resize import GRID


@dataclass(frozen=True)
class Prepared:
    """One reference before and after preprocessing.

    Attributes:
        slot: from 1, as in `ref_image1`.
        task: a key of TASKS.
        before: the image as it was sent, upright, `RGB` or `RGBA`.
        after: the image that the model sees, `RGB`, sides multiples of 16. Both images may be
            shared with a cache, so only change copies.
        name: the name for display; empty for that of the slot.
        remarks: what a person should check, one sentence each.
    """

    slot: int
    task: str
    before: Image.Image
    after: Image.Image
    name: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """The number of tokens that the reference adds to every step."""
        return (self.after.width // GRID) * (self.after.height // GRID)

    @property
    def caption(self) -> str:
        """Name, task, size and token count for display."""
        size = f"{self.after.width} x {self.after.height}"
        name = self.name or f"ref_image{self.slot}"
        return f"{name}   {self.task}   {size}   {self.tokens} tokens"
