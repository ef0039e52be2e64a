"""Finds subjects and faces with the networks that DreamO was trained with, on onnxruntime.

onnxruntime, rembg and uniface are imported when a reference first needs them. Their own downloads
are bypassed: only the files in the weights folder are used.
"""

import logging
import os
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dream_o.errors import BundleError
from dream_o.references.face import Face
from dream_o.references.network_memory import is_out_of_memory, memory_for
from dream_o.references.onnx_graph import normalises

if TYPE_CHECKING:
    from rembg.sessions.base import BaseSession
    from uniface.detection.retinaface import RetinaFace
    from uniface.parsing.bisenet import BiSeNet

logger = logging.getLogger(__name__)

# The libraries read these at import. They disable onnxruntime's telemetry, which would write a
# device id into the home folder, and numba's JIT, which would spend minutes on compiling pymatting
# (rembg imports it, but this project does not use it).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

MATTE_FILE = "BEN2_Base.onnx"
FACES_FILE = "retinaface_r50.onnx"
PARSING_FILE = "parsing_resnet18.onnx"
FILES = (MATTE_FILE, FACES_FILE, PARSING_FILE)

# BEN2 (github.com/PramaLLC/BEN2): the side of its square input, ImageNet's mean and standard
# deviation.
BEN2_SIDE = 1024
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)

# A threshold between uniface's default of 0.5 and facexlib's 0.97.
MIN_CONFIDENCE = 0.8
# Boxes with more overlap are the same face, as in both libraries.
MAX_OVERLAP = 0.4

# The classes of CelebAMask-HQ that are kept: skin, brows, eyes, glasses, nose, mouth, lips, hair.
# Background, ears and earrings, neck and necklace, cloth and hat become white.
KEPT_CLASSES = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 17)


class Networks:
    """BEN2, RetinaFace and BiSeNet from FILES in a folder, each loaded when first needed.

    Args:
        folder: the folder of FILES.
        device: a torch device's name. `cuda` and `cuda:N` run the networks on that GPU, other
            devices on the CPU.

    Its methods raise BundleError if a file cannot be loaded, and OutOfMemoryError if memory does
    not suffice to load or run a network.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.folder = folder
        self.device = device

    def matte(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`(height, width, 3)` RGB uint8 to BEN2's `(height, width)` uint8 alpha."""
        with memory_for(MATTE_FILE, self.device):
            (alpha,) = self._ben2.predict(Image.fromarray(image))
        return np.asarray(alpha)

    def find_faces(self, image: NDArray[np.uint8]) -> list[Face]:
        """RetinaFace's faces in a `(height, width, 3)` RGB uint8 image."""
        with memory_for(FACES_FILE, self.device):
            found = self._retinaface.detect(np.ascontiguousarray(image[..., ::-1]))
        return [
            Face(_box(face.bbox), partial(np.asarray, face.landmarks, np.float32)) for face in found
        ]

    def face_mask(self, aligned: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """255 where BiSeNet sees one of KEPT_CLASSES, `(height, width)` uint8."""
        with memory_for(PARSING_FILE, self.device):
            classes = self._bisenet.parse(np.ascontiguousarray(aligned[..., ::-1]))
        return np.where(np.isin(classes, KEPT_CLASSES), 255, 0).astype(np.uint8)

    @cached_property
    def _providers(self) -> list[Any]:
        return choose_providers(self.device)

    @cached_property
    def _ben2(self) -> "BaseSession":
        return self._load(_ben2_class(), MATTE_FILE)

    @cached_property
    def _retinaface(self) -> "RetinaFace":
        return self._load(_retinaface_class(), FACES_FILE)

    @cached_property
    def _bisenet(self) -> "BiSeNet":
        return self._load(_bisenet_class(), PARSING_FILE)

    def _load(self, network: Any, file: str) -> Any:
        try:
            return network(self.folder / file, self._providers)
        except Exception as error:  # a damaged file raises many kinds of errors
            if is_out_of_memory(error):
                raise
            raise BundleError(
                f"{file} cannot be loaded; run `dream-o weights verify references` to check it"
            ) from error


def _box(bbox: Any) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, bbox[:4])
    return left, top, right, bottom


def choose_providers(device: str) -> list[Any]:
    """onnxruntime's execution providers for a torch device, best first.

    If `device` is a GPU and this onnxruntime has no CUDA, logs a warning and returns the CPU's.
    This happens at the first reference, not at setup, because onnxruntime is only imported then.
    """
    import onnxruntime

    kind, _, number = device.partition(":")
    if kind != "cuda":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        logger.warning(
            "references run on the CPU: this onnxruntime has no CUDA (install onnxruntime-gpu)"
        )
        return ["CPUExecutionProvider"]
    # CUDA's libraries may be those of torch's packages, where the loader does not look.
    onnxruntime.preload_dlls()
    options = {
        "device_id": int(number or 0),
        # The exhaustive search picks the kernel that was fastest, so results would vary.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Do not allocate twice the requested memory: FLUX needs it.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _warn_of_fallback(session: Any, providers: list[Any]) -> None:
    if len(providers) > 1 and session.get_providers() == ["CPUExecutionProvider"]:
        logger.warning("references run on the CPU: onnxruntime could not load its CUDA libraries")


# The libraries' classes are extended inside functions, so that importing this module is fast.


@cache
def _ben2_class() -> Any:
    import onnxruntime
    from rembg.sessions.base import BaseSession

    class Ben2Session(BaseSession):
        """BEN2 with the right normalisation; rembg's divides by the image's brightest pixel.

        The original normalises by ImageNet's mean and standard deviation outside the network; a
        file may contain the network with or without this step.
        """

        def __init__(self, path: Path, providers: list[Any]) -> None:
            self.normalises_itself = normalises(path, IMAGENET_MEAN, IMAGENET_STD)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            super().__init__("ben2", options, providers=providers, model_path=path)

        @classmethod
        def name(cls, *args: Any, **kwargs: Any) -> str:
            return "ben2"

        @classmethod
        def download_models(cls, *args: Any, **kwargs: Any) -> str:
            return str(kwargs["model_path"])

        def _warn_on_provider_fallback(self, requested: list[Any]) -> None:
            _warn_of_fallback(self.inner_session, requested)

        def predict(self, img: Image.Image, *args: Any, **kwargs: Any) -> list[Image.Image]:
            takes = self.inner_session.get_inputs()[0]
            # The published file has float32 inputs and float16 outputs.
            dtype = np.float16 if takes.type == "tensor(float16)" else np.float32
            pixels = img.resize((BEN2_SIDE, BEN2_SIDE), Image.Resampling.LANCZOS)
            levels = np.asarray(pixels, np.float32) / 255
            if not self.normalises_itself:
                levels = (levels - IMAGENET_MEAN) / IMAGENET_STD
            feed = {takes.name: levels.transpose(2, 0, 1)[None].astype(dtype)}
            (output, *_) = self.inner_session.run(None, feed)
            square = np.squeeze(output).astype(np.float32)
            return [Image.fromarray(stretch(cv2.resize(square, img.size)))]

    return Ben2Session


def stretch(levels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scales a map to uint8: its minimum becomes 0, its maximum 255; a constant map becomes 255."""
    low, high = float(levels.min()), float(levels.max())
    if high == low:
        return np.full(levels.shape, 255, np.uint8)
    return ((levels - low) / (high - low) * 255).astype(np.uint8)


@cache
def _retinaface_class() -> Any:
    from uniface.common import generate_anchors
    from uniface.detection.retinaface import RetinaFace

    class LocalRetinaFace(RetinaFace):
        """uniface's detector with a local file; its own `__init__` would download one (4.2.1)."""

        def __init__(self, path: Path, providers: list[Any]) -> None:
            self.confidence_threshold = MIN_CONFIDENCE
            self.nms_threshold = MAX_OVERLAP
            self.pre_nms_topk = 5000
            self.post_nms_topk = 750
            self.providers = providers
            self._initialize_model(str(path))
            _warn_of_fallback(self.session, providers)
            height, width = self.session.get_inputs()[0].shape[2:]
            # If the file has a fixed input size, images are fitted into it.
            self.dynamic_size = not isinstance(height, int)
            if not self.dynamic_size:
                self.input_size = width, height
                self._priors = generate_anchors(image_size=(height, width))

    return LocalRetinaFace


@cache
def _bisenet_class() -> Any:
    from uniface.parsing.bisenet import BiSeNet

    class LocalBiSeNet(BiSeNet):
        """uniface's parser with a local file; its own `__init__` would download one (4.2.1)."""

        def __init__(self, path: Path, providers: list[Any]) -> None:
            self.input_mean = IMAGENET_MEAN
            self.input_std = IMAGENET_STD
            self.providers = providers
            self.model_path = str(path)
            self._initialize_model()
            _warn_of_fallback(self.session, providers)

    return LocalBiSeNet
