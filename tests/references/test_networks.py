"""Around the networks: what enters them, and what is made of what leaves them.

The networks are those of `onnx_files`.
"""

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from dream_o.errors import BundleError, InputError, SettingError
from dream_o.references import OFFLINE, choose_backend, networks, prepare
from dream_o.references.face import TEMPLATE
from dream_o.references.networks import FACES_FILE, FILES, MATTE_FILE, Networks
from dream_o.references.onnx_graph import normalises
from tests.drawings import FACE_LANDMARKS, drawn_face, spot_distance
from tests.fresh_process import run_fresh
from tests.references.onnx_files import (
    MEAN,
    STD,
    save_convolution,
    save_faces,
    save_matte,
    save_parsing,
)


class Recorder:
    """An onnxruntime session that keeps what enters it."""

    def __init__(self, session):
        self.session = session
        self.entered = None

    def run(self, names, feed):
        (self.entered,) = feed.values()
        return self.session.run(names, feed)

    def __getattr__(self, name):
        return getattr(self.session, name)


def noise(height, width):
    return np.random.default_rng(3).integers(0, 200, (height, width, 3), np.uint8)


class TestMatte:
    @pytest.mark.parametrize("output_type", [TensorProto.FLOAT16, TensorProto.FLOAT])
    def test_lanczos_imagenet_and_back(self, output_type, tmp_path):
        save_matte(tmp_path / MATTE_FILE, output_type)
        backend = Networks(tmp_path, "cpu")
        session = backend._ben2
        session.inner_session = recorder = Recorder(session.inner_session)
        image = noise(300, 200)
        matte = backend.matte(image)

        square = Image.fromarray(image).resize((1024, 1024), Image.Resampling.LANCZOS)
        expected = (np.asarray(square) / 255 - MEAN) / STD
        assert recorder.entered.shape == (1, 3, 1024, 1024)
        assert recorder.entered.dtype == np.float32
        assert np.abs(recorder.entered[0].transpose(1, 2, 0) - expected).max() < 1e-5

        # The map is the red channel: back to the image's size, then from 0 to 255.
        red = cv2.resize(expected[..., 0].astype(np.float32), (200, 300))
        stretched = (red - red.min()) / (red.max() - red.min()) * 255
        assert (matte.shape, matte.dtype) == ((300, 200), np.uint8)
        assert (matte.min(), matte.max()) == (0, 255)
        assert np.abs(matte - stretched).max() <= 2

    @pytest.mark.parametrize(
        ("first", "second", "itself"),
        [
            (("Sub", "mean"), ("Div", "deviation"), True),
            (("Add", "less mean"), ("Mul", "inverse deviation"), True),
            (("Sub", "half"), ("Div", "half"), False),
            (("Sub", "mean"), ("Div", "half"), False),
        ],
    )
    def test_a_file_that_normalises_itself_gets_plain_levels(self, first, second, itself, tmp_path):
        before = [
            helper.make_node(first[0], ["input", first[1]], ["centred"]),
            helper.make_node(second[0], ["centred", second[1]], ["scaled"]),
        ]
        save_convolution(tmp_path / MATTE_FILE, before)
        backend = Networks(tmp_path, "cpu")
        session = backend._ben2
        session.inner_session = recorder = Recorder(session.inner_session)
        image = noise(1024, 1024)
        backend.matte(image)
        levels = image / 255 if itself else (image / 255 - MEAN) / STD
        assert np.abs(recorder.entered[0].transpose(1, 2, 0) - levels).max() < 1e-5

    def test_what_comes_after_the_first_convolution_is_no_normalisation(self, tmp_path):
        before = [helper.make_node("Identity", ["input"], ["scaled"])]
        save_convolution(tmp_path / MATTE_FILE, before)
        model = onnx.load(tmp_path / MATTE_FILE)
        model.graph.node[-1].output[0] = "convolved"
        for kind, constant, (takes, gives) in (
            ("Sub", "mean", ("convolved", "centred")),
            ("Div", "deviation", ("centred", "output")),
        ):
            model.graph.node.append(helper.make_node(kind, [takes, constant], [gives]))
        onnx.save(model, tmp_path / MATTE_FILE)
        path = tmp_path / MATTE_FILE
        assert not normalises(path, MEAN.astype(np.float32), STD.astype(np.float32))

    def test_a_map_without_a_subject_keeps_the_image(self):
        assert (networks.stretch(np.full((4, 4), 0.3, np.float32)) == 255).all()

    def test_the_subject_goes_on_white(self, tmp_path):
        save_matte(tmp_path / MATTE_FILE)
        backend = whole(tmp_path)
        image = np.zeros((512, 512, 3), np.uint8)
        image[100:400, 100:400] = 200, 30, 30
        cut = np.asarray(prepare(Image.fromarray(image), "ip", 512, "ref_image1", backend))
        assert (cut[:90] == 255).all()
        # Lanczos overshoots at the edge: the map's maximum is there and not in the middle.
        assert np.abs(cut[250, 250].astype(int) - (200, 30, 30)).max() <= 10

    def test_transparency_is_the_matte_and_no_network_is_asked(self, tmp_path):
        rgba = Image.new("RGBA", (512, 512), (9, 9, 9, 0))
        for file in FILES:
            (tmp_path / file).write_bytes(b"not a network")
        backend = choose_backend("networks", tmp_path, "cpu")
        assert prepare(rgba, "ip", 512, "ref_image1", backend).getextrema() == ((255, 255),) * 3


def whole(folder):
    """The three networks of a folder, with the files that the test did not make."""
    if not (folder / MATTE_FILE).exists():
        save_matte(folder / MATTE_FILE)
    if not (folder / FACES_FILE).exists():
        save_faces(folder / FACES_FILE, [], 640, 640)
    if not (folder / networks.PARSING_FILE).exists():
        save_parsing(folder / networks.PARSING_FILE, np.ones((512, 512), np.int64))
    return choose_backend("networks", folder, "cpu")


# A drawn face of 320 pixels in the middle of 640 x 480.
FACE_AT = FACE_LANDMARKS * 320 + (160, 80)
BOX = (200, 100, 440, 380)


def picture():
    image = np.full((480, 640, 3), (120, 140, 160), np.uint8)
    image[80:400, 160:480] = drawn_face(320)
    return image


class TestFaces:
    def test_the_image_enters_at_its_own_size_as_bgr_less_the_mean(self, tmp_path):
        save_faces(tmp_path / FACES_FILE, [], 300, 200)
        backend = Networks(tmp_path, "cpu")
        backend._retinaface.session = recorder = Recorder(backend._retinaface.session)
        image = noise(300, 200)
        assert backend.find_faces(image) == []
        expected = image[..., ::-1].astype(np.float32) - (104, 117, 123)
        assert np.array_equal(recorder.entered[0].transpose(1, 2, 0), expected)

    def test_a_file_of_one_size_gets_the_image_fitted_into_it(self, tmp_path):
        # 640 x 480 goes into 320 x 320 at half its size, top left.
        face = (FACE_AT / 2, tuple(v / 2 for v in BOX), 0.99)
        save_faces(tmp_path / FACES_FILE, [face], 320, 320, fixed=True)
        (found,) = Networks(tmp_path, "cpu").find_faces(picture())
        assert np.abs(found.find_landmarks() - FACE_AT).max() < 0.5

    def test_box_and_landmarks_come_back(self, tmp_path):
        save_faces(tmp_path / FACES_FILE, [(FACE_AT, BOX, 0.99)], 480, 640)
        (face,) = Networks(tmp_path, "cpu").find_faces(picture())
        assert np.abs(face.find_landmarks() - FACE_AT).max() < 0.01
        assert np.abs(np.array(face.box) - BOX).max() < 0.01

    def test_uncertain_faces_and_second_boxes_of_one_are_dropped(self, tmp_path):
        shifted = tuple(v + 8 for v in BOX)
        unsure = (20, 20, 100, 100)
        faces = [(FACE_AT, BOX, 0.99), (FACE_AT + 8, shifted, 0.9), (FACE_AT, unsure, 0.6)]
        save_faces(tmp_path / FACES_FILE, faces, 480, 640)
        assert len(Networks(tmp_path, "cpu").find_faces(picture())) == 1

    def test_landmarks_land_on_the_template(self, tmp_path):
        # Landmarks of a similarity of the template itself: the fit has no error of its own.
        face = (TEMPLATE * 0.5 + (190, 60), BOX, 0.99)
        save_faces(tmp_path / FACES_FILE, [face], 480, 640)
        image = np.zeros((480, 640, 3), np.uint8)
        for x, y in face[0]:
            at = round(float(x) * 256), round(float(y) * 256)
            cv2.circle(image, at, 3 * 256, (255, 255, 255), -1, cv2.LINE_AA, shift=8)
        crop = prepare(Image.fromarray(image), "id", 512, "ref_image1", whole(tmp_path))
        for x, y in TEMPLATE:
            assert spot_distance(np.asarray(crop), x, y) < 0.5

    def test_of_several_faces_the_one_nearest_the_centre(self, tmp_path, caplog):
        caplog.set_level("INFO")
        far = (FACE_AT * 0.3, (0, 0, 120, 120), 0.999)
        save_faces(tmp_path / FACES_FILE, [far, (FACE_AT, BOX, 0.9)], 480, 640)
        both = prepare(Image.fromarray(picture()), "id", 512, "ref_image1", whole(tmp_path))
        assert "2 faces found" in caplog.text
        save_faces(tmp_path / FACES_FILE, [(FACE_AT, BOX, 0.9)], 480, 640)
        alone = prepare(Image.fromarray(picture()), "id", 512, "ref_image1", whole(tmp_path))
        assert np.array_equal(np.asarray(both), np.asarray(alone))

    def test_no_face_is_an_input_error(self, tmp_path):
        save_faces(tmp_path / FACES_FILE, [], 480, 640)
        with pytest.raises(InputError, match=r"^ref_image2: no face found; use ref_task2=ip"):
            prepare(Image.fromarray(picture()), "id", 512, "ref_image2", whole(tmp_path))

    def test_large_photographs_enter_at_1024(self, tmp_path):
        save_faces(tmp_path / FACES_FILE, [(FACE_AT * 1.6, BOX, 0.99)], 768, 1024)
        large = cv2.resize(picture(), (2048, 1536), interpolation=cv2.INTER_LINEAR)
        assert prepare(Image.fromarray(large), "id", 512, "ref_image1", whole(tmp_path))


class TestParsing:
    def test_what_enters(self, tmp_path):
        save_parsing(tmp_path / networks.PARSING_FILE, np.ones((512, 512), np.int64))
        backend = Networks(tmp_path, "cpu")
        backend._bisenet.session = recorder = Recorder(backend._bisenet.session)
        image = noise(512, 512)
        backend.face_mask(image)
        expected = (image / 255 - MEAN) / STD
        assert np.abs(recorder.entered[0].transpose(1, 2, 0) - expected).max() < 1e-5

    def test_background_ears_neck_cloth_and_hat_turn_white(self, tmp_path):
        # A band of each class, 26 rows high.
        classes = np.minimum(np.arange(512) // 26, 18)[:, None].repeat(512, 1)
        save_faces(tmp_path / FACES_FILE, [(FACE_AT, BOX, 0.99)], 480, 640)
        save_parsing(tmp_path / networks.PARSING_FILE, classes)
        crop = np.asarray(
            prepare(Image.fromarray(picture()), "id", 512, "ref_image1", whole(tmp_path))
        )
        white = [bool((crop[classes == each] == 255).all()) for each in range(19)]
        gone = {0, 7, 8, 9, 14, 15, 16, 18}
        assert [each for each in range(19) if white[each]] == sorted(gone)


class TestChoice:
    def test_auto_takes_the_networks_when_all_are_there(self, tmp_path):
        for file in FILES:
            (tmp_path / file).touch()
        chosen = choose_backend("auto", tmp_path, "cpu")
        assert chosen.name == "networks"
        assert "BEN2" in chosen.description
        assert choose_backend("offline", tmp_path, "cpu") is OFFLINE
        assert "offline" in OFFLINE.description

    def test_auto_without_files_is_offline_and_says_what_is_missing(self, tmp_path, caplog):
        assert choose_backend("auto", tmp_path, "cpu") is OFFLINE
        assert caplog.text == ""
        (tmp_path / FILES[0]).touch()
        assert choose_backend("auto", tmp_path, "cpu") is OFFLINE
        assert "dream-o weights download references" in caplog.text

    def test_networks_without_files_names_the_command(self, tmp_path):
        with pytest.raises(SettingError) as caught:
            choose_backend("networks", tmp_path, "cpu")
        assert "dream-o weights download references" in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


class TestDamage:
    @pytest.mark.parametrize(("task", "file"), [("ip", MATTE_FILE), ("id", FACES_FILE)])
    def test_a_damaged_file_is_named_without_its_folder(self, task, file, tmp_path):
        for each in FILES:
            (tmp_path / each).write_bytes(b"not a network")
        backend = choose_backend("auto", tmp_path, "cpu")
        with pytest.raises(BundleError, match="weights verify references") as caught:
            prepare(Image.fromarray(picture()), task, 512, "ref_image1", backend)
        assert str(caught.value).startswith(file)
        assert str(tmp_path) not in str(caught.value)


class TestProviders:
    def test_the_cpu_for_every_device_but_cuda(self):
        for device in ("cpu", "mps"):
            assert networks.choose_providers(device) == ["CPUExecutionProvider"]

    def test_cuda_where_there_is_none_warns(self, monkeypatch, caplog):
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        assert networks.choose_providers("cuda:1") == ["CPUExecutionProvider"]
        assert "no CUDA" in caplog.text

    def test_cuda_by_its_number_and_then_the_cpu(self, monkeypatch):
        there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        loaded = []
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
        monkeypatch.setattr("onnxruntime.preload_dlls", lambda: loaded.append("CUDA's libraries"))
        (name, options), last = networks.choose_providers("cuda:1")
        assert (name, options["device_id"], last) == (
            "CUDAExecutionProvider",
            1,
            "CPUExecutionProvider",
        )
        assert loaded


LAZY = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from dream_o.references import choose_backend, prepare
backend = choose_backend("networks", Path(sys.argv[1]), "cpu")
image = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
loaded = lambda: [name for name in ("onnxruntime", "rembg", "uniface") if name in sys.modules]
print(loaded())
prepare(image, "style", 256, "ref_image1", backend)
print(loaded())
prepare(image, sys.argv[2], 256, "ref_image1", backend)
print(loaded())
"""


@pytest.fixture(scope="class", params=["ip", "id"])
def imported(request, tmp_path_factory):
    """A process of its own that prepares a reference: the task, what it printed, and its home."""
    home, networks = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
            patch.delenv(variable, raising=False)
        patch.setenv("HOME", str(home))
        save_faces(networks / FACES_FILE, [(TEMPLATE / 8, (2, 2, 60, 60), 0.9)], 64, 64)
        whole(networks)
        printed = run_fresh(LAZY, networks, request.param)
    return request.param, printed.splitlines(), home


class TestImports:
    def test_libraries_are_imported_by_the_first_reference_that_needs_them(self, imported):
        task, printed, _ = imported
        library = {"ip": "rembg", "id": "uniface"}[task]
        assert printed == ["[]", "[]", f"['onnxruntime', '{library}']"]

    def test_the_libraries_leave_the_home_folder_alone(self, imported):
        _, printed, home = imported
        assert printed
        assert [path for path in home.rglob("*") if path.is_file()] == []
