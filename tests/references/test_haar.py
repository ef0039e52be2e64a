"""Faces without a network, on a drawn one whose landmarks are known."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dream_o.images.opening import open_image
from dream_o.references import haar, prepare
from dream_o.references.offline import OVAL, _ellipse
from tests.drawings import FACE_LANDMARKS, drawn_face

SIDE = 200
EYES = FACE_LANDMARKS[:2] * SIDE + SIDE / 2


def turned(image, degrees, scale=1.0):
    """The image turned about its middle, and where its eyes then are."""
    middle = image.shape[1] / 2, image.shape[0] / 2
    matrix = cv2.getRotationMatrix2D(middle, degrees, scale)
    size = image.shape[1], image.shape[0]
    view = cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    return view, np.hstack([EYES, np.ones((2, 1))]) @ matrix.T


@pytest.mark.parametrize("degrees", [0, 15, -15, 22])
def test_eyes_of_an_upright_and_of_a_tilted_face(degrees):
    image, eyes = turned(drawn_face(SIDE, 0.5), degrees)
    (face,) = haar.find_faces(image)
    assert np.abs(face.find_landmarks()[:2] - eyes).max() < 0.04 * SIDE
    left, top, right, bottom = face.box
    assert left < eyes[:, 0].min() <= eyes[:, 0].max() < right
    assert top < eyes[:, 1].min() <= eyes[:, 1].max() < bottom


@pytest.mark.parametrize("brightness", [0.6, 1.4])
def test_dim_and_bright_faces(brightness):
    image = (drawn_face(SIDE, 0.5) * brightness).clip(0, 255).astype(np.uint8)
    (face,) = haar.find_faces(image)
    assert np.abs(face.find_landmarks()[:2] - EYES).max() < 0.04 * SIDE


def test_a_mirrored_face_is_the_mirrored_find():
    image = drawn_face(SIDE, 0.5)
    (face,) = haar.find_faces(np.ascontiguousarray(image[:, ::-1]))
    assert np.abs(face.find_landmarks()[:2] - EYES).max() < 0.04 * SIDE


def test_small_images_are_looked_at_enlarged():
    small = cv2.resize(drawn_face(SIDE, 0.5), None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    (face,) = haar.find_faces(small)
    assert np.abs(face.find_landmarks()[:2] - EYES * 0.3).max() < 4


@pytest.mark.parametrize("shape", [(16, 16), (16, 320), (150, 150)])
def test_no_faces_in_noise_and_in_the_smallest_images(shape):
    noise = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    assert haar.find_faces(noise) == []


def test_one_view_alone_is_not_believed(monkeypatch):
    image = drawn_face(SIDE, 0.5)
    monkeypatch.setattr(haar, "MIN_VOTES", 13)
    assert haar.find_faces(image) == []


def test_a_copy_that_exif_mirrors_gives_the_same_crop():
    image = Image.fromarray(drawn_face(SIDE, 0.5))
    exif = Image.Exif()
    exif[0x0112] = 2
    file = io.BytesIO()
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file, "PNG", exif=exif)
    copy = prepare(open_image(file, "ref_image1"), "id", 512, "ref_image1")
    assert np.array_equal(np.asarray(copy), np.asarray(prepare(image, "id", 512, "ref_image1")))


@pytest.mark.parametrize(("degrees", "scale"), [(0, 0.8), (12, 1.0), (-15, 0.8)])
def test_a_turned_and_scaled_copy_gives_nearly_the_same_crop(degrees, scale):
    image = drawn_face(2 * SIDE, 0.5)
    copy, _ = turned(image, degrees, scale)
    first, second = (
        np.asarray(prepare(Image.fromarray(each), "id", 512, "ref_image1")).astype(int)
        for each in (image, copy)
    )
    difference = np.abs(first - second)
    # Dark hair before white moves by about a pixel; the face within the oval differs less.
    assert difference.mean() < 3
    assert difference[_ellipse(OVAL) == 255].sum() / difference.size < 2


def test_of_a_crowd_only_the_face_that_is_used_is_searched_for_eyes(monkeypatch):
    searched = []
    find = haar._eyes
    monkeypatch.setattr(haar, "_eyes", lambda box: searched.append(1) or find(box))
    crowd = np.tile(drawn_face(SIDE, 0.5), (2, 3, 1))
    prepare(Image.fromarray(crowd), "id", 512, "ref_image1")
    assert len(haar.find_faces(crowd)) > 1
    assert len(searched) == haar.EYE_ROUNDS
