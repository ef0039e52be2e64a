"""The README's sheet of prepared references: `python -m tests.references.sheet` draws it."""

import cv2
import numpy as np
from PIL import Image

from dream_o.images.writing import write_image
from dream_o.references import prepare
from dream_o.references.contact_sheet import reference_sheet
from dream_o.references.prepared import Prepared
from tests import ROOT
from tests.drawings import drawn_face

SHEET = ROOT / "docs" / "references.webp"


def robot():
    """A toy robot on a table in front of a lit wall."""
    image = np.full((480, 640, 3), (214, 190, 160), np.uint8)
    light = 0.75 + 0.25 * np.cos(np.linspace(-1.2, 1.2, 640))
    image = (image * light[None, :, None]).astype(np.uint8)
    body, dark, lamp = (52, 110, 168), (36, 52, 74), (250, 206, 80)
    for left, top, right, bottom, colour in (
        (240, 190, 400, 370, body),
        (265, 80, 375, 175, body),
        (305, 175, 335, 190, dark),
        (205, 200, 235, 330, dark),
        (405, 200, 435, 330, dark),
        (260, 370, 310, 440, dark),
        (330, 370, 380, 440, dark),
        (270, 220, 370, 290, lamp),
        (316, 45, 324, 80, dark),
    ):
        cv2.rectangle(image, (left, top), (right, bottom), colour, -1)
    for centre, radius, colour in (
        ((298, 125), 16, lamp),
        ((342, 125), 16, lamp),
        ((298, 125), 7, dark),
        ((342, 125), 7, dark),
        ((320, 40), 11, (200, 60, 50)),
        ((300, 330), 12, lamp),
        ((340, 330), 12, (200, 60, 50)),
    ):
        cv2.circle(image, centre, radius, colour, -1, cv2.LINE_AA)
    return image


def hills():
    """Hills at dusk, in flat colours."""
    down = np.linspace(0, 1, 360)[:, None, None]
    image = ((1 - down) * (44, 40, 92) + down * (240, 150, 110)).astype(np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(image, (360, 640, 3)))
    cv2.circle(image, (460, 150), 44, (255, 226, 160), -1, cv2.LINE_AA)
    across = np.arange(640)
    for height, swing, colour in (
        (210, 38, (92, 62, 112)),
        (260, 26, (64, 44, 92)),
        (310, 18, (36, 28, 62)),
    ):
        ridge = height - swing * np.sin(across / (40 + height / 3) + height)
        points = [*np.stack([across, ridge], axis=1).tolist(), [640, 360], [0, 360]]
        cv2.fillPoly(image, [np.int32(points)], colour, cv2.LINE_AA)
    return image


def prepared():
    """One drawing for each task, before and after."""
    drawings = (("ip", robot()), ("id", drawn_face(320, 0.4)), ("style", hills()))
    for slot, (task, pixels) in enumerate(drawings, start=1):
        before = Image.fromarray(pixels)
        yield Prepared(slot, task, before, prepare(before, task, 512, f"ref_image{slot}"))


if __name__ == "__main__":
    write_image(reference_sheet(list(prepared())), "webp", 85, {}, SHEET.parent).replace(SHEET)
    SHEET.chmod(0o644)
