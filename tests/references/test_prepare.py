"""Photo in, condition image out: the three tasks with the offline backend."""

import hashlib

import cv2
import numpy as np
import pytest
from PIL import Image

from dream_o.errors import InputError
from dream_o.references import OFFLINE, TASKS, prepare
from dream_o.references.background import cut_out
from dream_o.references.face import TEMPLATE, Face, align, nearest_centre
from tests.drawings import FACE_LANDMARKS, drawn_face, spot_distance
from tests.fresh_process import run_fresh
from tests.references.test_offline import composites

GREEN_DISC = np.zeros((300, 400, 3), np.uint8)
GREEN_DISC[:] = (90, 110, 200)
cv2.circle(GREEN_DISC, (200, 150), 90, (30, 160, 60), -1)


def portrait(side=256, margin=0.5):
    return Image.fromarray(drawn_face(side, margin))


class TestSubject:
    def test_the_background_becomes_white_and_the_subject_stays(self):
        cut = np.asarray(prepare(Image.fromarray(GREEN_DISC), "ip", 512, "ref_image1"))
        assert cut.shape == (432, 576, 3)
        assert (cut[:20] == 255).all()
        assert (cut[-20:] == 255).all()
        assert np.abs(cut[216, 288].astype(int) - (30, 160, 60)).max() <= 1

    def test_a_flat_image_is_kept_whole(self):
        flat = Image.new("RGB", (512, 512), (10, 20, 30))
        assert np.asarray(prepare(flat, "ip", 512, "ref_image1")).max() <= 30

    def test_transparency_is_the_matte(self):
        rgba = Image.new("RGBA", (512, 512), (0, 0, 0, 0))
        rgba.paste((10, 200, 30, 255), (0, 0, 512, 100))
        rgba.paste((0, 0, 0, 128), (0, 100, 512, 200))
        cut = prepare(rgba, "ip", 512, "ref_image1")
        assert cut.getpixel((0, 0)) == (10, 200, 30)
        assert cut.getpixel((0, 150)) == (127, 127, 127)
        assert cut.getpixel((511, 511)) == (255, 255, 255)

    def test_cut_out_rounds_as_a_division_by_255(self):
        image = np.arange(256, dtype=np.uint8)[:, None, None].repeat(256, 1).repeat(3, 2)
        matte = np.arange(256, dtype=np.uint8)[None].repeat(256, 0)
        alpha = matte[..., None] / 255
        assert np.array_equal(cut_out(image, matte), np.rint(image * alpha + 255 * (1 - alpha)))


class TestFace:
    def test_a_face_is_put_on_the_template_with_white_around(self):
        aligned = np.asarray(prepare(portrait(), "id", 512, "ref_image1"))
        assert aligned.shape == (512, 512, 3)
        assert (aligned[:10] == 255).all()
        assert (aligned[:, :10] == 255).all()
        # Pupils are the darkest of the eyes' rows.
        eyes = aligned[225:256].astype(int).sum(axis=(0, 2))
        assert abs(eyes[150:240].argmin() + 150 - TEMPLATE[0, 0]) < 14
        assert abs(eyes[270:360].argmin() + 270 - TEMPLATE[1, 0]) < 14

    @pytest.mark.parametrize("slot", [1, 2])
    def test_no_face_names_the_slot_and_the_way_out(self, slot):
        with pytest.raises(InputError) as caught:
            prepare(Image.fromarray(GREEN_DISC), "id", 512, f"ref_image{slot}")
        assert str(caught.value) == (
            f"ref_image{slot}: no face found; use ref_task{slot}=ip or style, "
            "or a photo with a visible face"
        )

    def test_of_several_faces_the_one_nearest_the_centre_and_the_log_counts(self, caplog):
        caplog.set_level("INFO")
        wall = np.full((500, 900, 3), (120, 140, 160), np.uint8)
        wall[122:378, 10:266] = drawn_face()
        wall[122:378, 330:586] = drawn_face() // 2
        both = np.asarray(prepare(Image.fromarray(wall), "id", 512, "ref_image1"))
        assert "2 faces found" in caplog.text
        middle = np.asarray(prepare(Image.fromarray(wall[:, 290:640]), "id", 512, "ref_image1"))
        assert np.abs(both.astype(int) - middle).mean() < 6

    def test_the_nearest_box_counts_not_the_largest(self):
        far, near = (
            Face(box, lambda: TEMPLATE) for box in ((0, 0, 300, 300), (480, 480, 520, 520))
        )
        assert nearest_centre([far, near], 1000, 1000) is near

    def test_faces_on_transparency_are_looked_for_on_white(self):
        face = Image.fromarray(drawn_face(256, 0.5)).convert("RGBA")
        alpha = Image.new("L", face.size, 0)
        alpha.paste(255, (120, 100, 400, 400))
        face.putalpha(alpha)
        assert prepare(face, "id", 512, "ref_image1").size == (512, 512)


class TestAlignment:
    SIDE = 400

    def spots(self, points, side=SIDE):
        """A round spot of its own colour at each landmark, on black."""
        image = np.zeros((side, side, 3), np.uint8)
        for point, colour in zip(points, np.eye(5, 3, dtype=int) * 200 + 50, strict=True):
            at = tuple(round(float(v) * 16) for v in point)
            cv2.circle(image, at, 4 * 16, [int(v) for v in colour], -1, cv2.LINE_AA, shift=4)
        return image

    def test_the_five_landmarks_land_on_the_template(self):
        landmarks = (TEMPLATE - 256) * 0.6 + 200
        turn = cv2.getRotationMatrix2D((200, 200), 17, 1)
        landmarks = np.hstack([landmarks, np.ones((5, 1))]) @ turn.T
        aligned = align(self.spots(landmarks), landmarks.astype(np.float32))
        for x, y in TEMPLATE:
            assert spot_distance(aligned, x, y) < 0.5

    def test_a_turned_and_scaled_copy_gives_the_same_crop(self):
        face = drawn_face(512, 0.5)
        landmarks = FACE_LANDMARKS * 512 + 256
        turn = cv2.getRotationMatrix2D((512, 512), 20, 0.8)
        copy = cv2.warpAffine(face, turn, (1024, 1024), borderMode=cv2.BORDER_REPLICATE)
        moved = np.hstack([landmarks, np.ones((5, 1))]) @ turn.T
        first, second = align(face, landmarks), align(copy, moved.astype(np.float32))
        assert np.abs(first.astype(int) - second).mean() < 2

    def test_outside_the_photograph_is_the_training_grey(self):
        landmarks = (TEMPLATE - 256) * 0.5 + (5, 5)
        aligned = align(np.zeros((200, 200, 3), np.uint8), landmarks.astype(np.float32))
        assert tuple(aligned[0, 0]) == (132, 133, 135)


class TestStyle:
    def test_only_the_size_changes(self):
        image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
        same = prepare(Image.fromarray(image), "style", 512, "ref_image1")
        assert np.array_equal(same, image)
        assert prepare(Image.fromarray(image), "style", 256, "ref_image1").size == (256, 256)


SAME = """
from dream_o.references import TASKS
from tests.references.test_prepare import photographs, prepared_digest
of_task = photographs()
for task in TASKS:
    print(task, prepared_digest(of_task[task], task))
"""


def photographs():
    """An image for each task; only networks tell the subject for `ip` from the hills."""
    face = portrait(200)
    hills = Image.fromarray(next(composites(())).image)
    return {"id": face, "ip": hills, "style": face}


def prepared_digest(image, task):
    pixels = np.asarray(prepare(image, task, 512, "ref_image1"))
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_the_same_image_gives_the_same_pixels_in_any_order_and_process():
    printed = run_fresh(SAME)
    of_task = photographs()
    for task in reversed(TASKS):
        assert f"{task} {prepared_digest(of_task[task], task)}" in printed


def test_the_log_names_the_backend(caplog):
    caplog.set_level("INFO")
    prepare(portrait(), "ip", 256, "ref_image2", OFFLINE)
    assert "ref_image2: ip by the offline backend" in caplog.text
