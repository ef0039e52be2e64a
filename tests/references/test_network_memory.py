"""Memory that does not suffice for a reference network, as onnxruntime reports it."""

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException
from PIL import Image

from dream_o.errors import BundleError, OutOfMemoryError
from dream_o.references import choose_backend, prepare
from dream_o.references.network_memory import is_out_of_memory
from dream_o.references.networks import FACES_FILE, MATTE_FILE, PARSING_FILE
from tests.drawings import FACE_LANDMARKS, drawn_face
from tests.references.onnx_files import save_faces, save_matte, save_parsing

ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "
    "Conv node. Name:'/backbone/Conv' Status Message: bfc_arena.cc:376 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for "
    "requested buffer of size 1073741824"
)
CUDA = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; hostname=host ; "
    "file=cuda_allocator.cc ; line=67 ; expr=cudaMalloc((void**)&p, size);"
)
CUBLAS = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: CUBLAS failure "
    "3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=host ; expr=cublasCreate(&cublas_handle_);"
)
CUDNN = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDNN failure 5003: "
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0 ; hostname=host"
)
HOST = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc"
)
ERRORS = [RuntimeException(ARENA), Fail(CUDA), RuntimeException(CUBLAS), Fail(CUDNN)]

FILES = [("ip", MATTE_FILE), ("id", FACES_FILE), ("id", PARSING_FILE)]


@pytest.fixture
def folder(tmp_path):
    box = (60, 40, 260, 280)
    save_matte(tmp_path / MATTE_FILE)
    save_faces(tmp_path / FACES_FILE, [(FACE_LANDMARKS * 320, box, 0.99)], 320, 320)
    save_parsing(tmp_path / PARSING_FILE, np.ones((512, 512), np.int64))
    return tmp_path


@pytest.fixture
def on_gpu(monkeypatch, folder):
    """The networks as on a GPU, whose provider this onnxruntime does not have."""
    monkeypatch.setattr(
        "dream_o.references.networks.choose_providers", lambda _: ["CPUExecutionProvider"]
    )
    return choose_backend("networks", folder, "cuda:0")


def use(backend, task):
    image = Image.fromarray(drawn_face(320))
    return prepare(image, task, 256, "ref_image1", backend)


def fails_to(monkeypatch, step, file, error):
    """Makes onnxruntime raise an error when it loads or runs one file."""
    import onnxruntime

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, *args, **kwargs):
            self.fails = str(path).endswith(file)
            if step == "load" and self.fails:
                raise error
            super().__init__(path, *args, **kwargs)

        def run(self, *args, **kwargs):
            if self.fails:
                raise error
            return super().run(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


@pytest.mark.parametrize("step", ["load", "run"])
@pytest.mark.parametrize(("task", "file"), FILES)
def test_out_of_gpu_memory_says_what_helps(monkeypatch, on_gpu, step, task, file):
    use(on_gpu, "style")
    fails_to(monkeypatch, step, file, ERRORS[0])
    with pytest.raises(OutOfMemoryError) as caught:
        use(on_gpu, task)
    message = str(caught.value)
    assert message.startswith(f"out of GPU memory while {file} prepared a reference; ")
    assert "DREAM_O_OFFLOAD" in message
    assert "DREAM_O_REFERENCES=offline" in message
    assert "verify" not in message


@pytest.mark.parametrize("error", ERRORS, ids=["arena", "CUDA", "cuBLAS", "cuDNN"])
@pytest.mark.parametrize(("task", "file"), FILES[:2])
def test_each_librarys_words_are_understood(monkeypatch, on_gpu, error, task, file):
    fails_to(monkeypatch, "load", file, error)
    with pytest.raises(OutOfMemoryError, match=r"^out of GPU memory"):
        use(on_gpu, task)


@pytest.mark.parametrize("error", [RuntimeException(HOST), MemoryError()], ids=["C++", "Python"])
def test_on_a_cpu_the_hosts_memory_is_named(monkeypatch, folder, error):
    fails_to(monkeypatch, "run", MATTE_FILE, error)
    with pytest.raises(OutOfMemoryError, match=rf"^out of memory while {MATTE_FILE}") as caught:
        use(choose_backend("networks", folder, "cpu"), "ip")
    assert "DREAM_O_OFFLOAD" not in str(caught.value)


@pytest.mark.parametrize(("step", "raised"), [("load", BundleError), ("run", Fail)])
def test_other_errors_are_not_about_memory(monkeypatch, on_gpu, step, raised):
    error = Fail("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access")
    fails_to(monkeypatch, step, MATTE_FILE, error)
    with pytest.raises(raised) as caught:
        use(on_gpu, "ip")
    assert not isinstance(caught.value, OutOfMemoryError)


def raised(way):
    """An error that was raised while another, about memory, was handled."""
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            if way == "from it":
                raise ValueError("no session") from error
            if way == "from None":
                raise ValueError("no file") from None
            raise ValueError("no session")  # noqa: B904
    except ValueError as error:
        return error


@pytest.mark.parametrize(("way", "counts"), [("from it", True), ("", True), ("from None", False)])
def test_what_led_to_an_error_counts_unless_it_is_ruled_out(way, counts):
    assert is_out_of_memory(raised(way)) == counts


def test_a_network_works_again_once_there_is_memory(monkeypatch, on_gpu):
    with monkeypatch.context() as patched:
        fails_to(patched, "load", MATTE_FILE, ERRORS[0])
        with pytest.raises(OutOfMemoryError):
            use(on_gpu, "ip")
    assert use(on_gpu, "ip").size == (256, 256)
