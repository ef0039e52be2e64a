"""A contact sheet of references: each as sent and as the model sees it."""

from collections.abc import Sequence
from textwrap import wrap

from PIL import Image

from dream_o.images.opening import on_white
from dream_o.images.sheet import Cell, contact_sheet
from dream_o.references.prepared import Prepared

# The longer side of an image on the sheet, in pixels.
SIDE = 384
# How many letters of a remark fit above two images.
LETTERS = 84


def reference_sheet(references: Sequence[Prepared]) -> Image.Image:
    """Draws one row per reference, before on the left and after on the right, `RGB`.

    Raises:
        ValueError: there are no references.
    """
    # The model sees transparent pixels as white.
    rows = [[Cell((on_white(each.before), each.after), _caption(each))] for each in references]
    return contact_sheet(rows, SIDE)


def _caption(reference: Prepared) -> str:
    remarks = [line for remark in reference.remarks for line in wrap(remark, LETTERS)]
    return "\n".join([reference.caption, *remarks])
