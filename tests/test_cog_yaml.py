"""cog.yaml and .dockerignore: every claim that needs no Docker."""

import ast
import importlib
import re
from pathlib import PurePosixPath

import cog
import pytest
import yaml

from tests import ROOT, tracked

FILES = ["cog-dream-render.yaml", "cog.yaml"]

# Keys of Cog 0.23's reference, docs/yaml.md.
TOP_KEYS = {"build", "predict", "run", "image", "concurrency", "environment", "weights"}
BUILD_KEYS = {"gpu", "cuda", "cudnn", "python_version", "python_requirements", "system_packages"}
BUILD_KEYS |= {"sdk_version", "run"}

PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)")


def pins(file: str) -> dict[str, str]:
    """Names and versions of a requirements file; a line that is no exact pin fails."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        match = PIN.fullmatch(line)
        assert match, f"{file}: {line!r} is not name==version"
        found[match[1].lower()] = match[2]
    return found


def ignored(path: PurePosixPath, rules: list[str]) -> bool:
    """Docker's rule: the last pattern that matches the path or a folder above it decides."""
    names = [str(path), *(str(parent) for parent in path.parents if str(parent) != ".")]
    decision = False
    for rule in rules:
        pattern = rule.removeprefix("!").strip("/")
        regex = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        regex = regex.replace(r"\[", "[").replace(r"\]", "]")
        if any(re.fullmatch(regex, name) for name in names):
            decision = not rule.startswith("!")
    return decision


def rules() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def copied() -> dict[str, int]:
    """Path and size of every file of a clone that `COPY . /src` would take."""
    return {
        name: (ROOT / name).lstat().st_size
        for name in tracked()
        if not ignored(PurePosixPath(name), rules())
    }


@pytest.fixture(params=FILES)
def config(request):
    return yaml.safe_load((ROOT / request.param).read_text())


def test_there_is_a_cog_yaml_for_each_predictor():
    named = {file: yaml.safe_load((ROOT / file).read_text())["predict"] for file in FILES}
    assert named == {
        "cog.yaml": "predict.py:Predictor",
        "cog-dream-render.yaml": "predict.py:DreamRenderPredictor",
    }


def test_the_two_images_differ_in_the_predictor_alone():
    first, second = (yaml.safe_load((ROOT / file).read_text())["build"] for file in FILES)
    assert first == second


def test_only_keys_that_cog_knows_are_used(config):
    assert set(config) <= TOP_KEYS
    assert set(config["build"]) <= BUILD_KEYS


def test_the_image_has_a_gpu_and_the_cuda_of_torch(config):
    assert config["build"]["gpu"] is True
    # `pip download torch==2.13.0`: requires cuda-toolkit[...]==13.0.3. Text, or 13.0 is a number.
    assert config["build"]["cuda"] == "13.0"
    assert pins("requirements.txt")["torch"] == "2.13.0"


def test_the_image_has_onnxruntime_for_the_gpu_in_place_of_the_cpus(config):
    version = pins("requirements.txt")["onnxruntime"]
    remove, install = config["build"]["run"]
    assert remove == "python -m pip uninstall --yes onnxruntime"
    assert install.split()[-1] == f"onnxruntime-gpu=={version}"


def test_the_python_is_the_one_that_the_code_is_checked_for(config):
    assert config["build"]["python_version"] == "3.11"
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def test_the_predictor_is_found_without_running_the_file(config):
    file, name = config["predict"].split(":")
    tree = ast.parse((ROOT / file).read_text())
    (found,) = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name]
    methods = {each.name for each in found.body if isinstance(each, ast.FunctionDef)}
    assert {"setup", "predict"} <= methods


def test_every_input_is_a_literal_that_cog_can_read(config):
    file, name = config["predict"].split(":")
    tree = ast.parse((ROOT / file).read_text())
    (found,) = [each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name]
    (method,) = [each for each in found.body if getattr(each, "name", "") == "predict"]
    inputs = method.args.defaults
    assert len(inputs) == len(method.args.args) - 1
    for each in inputs:
        assert isinstance(each, ast.Call)
        assert each.func.id == "Input"
        assert not each.args
        for keyword in each.keywords:
            ast.literal_eval(keyword.value)


def test_the_predictor_can_be_imported(config):
    file, name = config["predict"].split(":")
    predictor = getattr(importlib.import_module(file.removesuffix(".py")), name)
    assert issubclass(predictor, cog.BasePredictor)


def test_every_requirement_is_pinned_exactly(config):
    assert len(pins(config["build"]["python_requirements"])) > 5


def test_cog_in_the_image_is_cog_in_the_requirements(config):
    found = pins(config["build"]["python_requirements"])
    assert found["cog"] == found["coglet"] == config["build"]["sdk_version"] == cog.__version__


def test_opencv_finds_its_system_libraries(config):
    assert "opencv-python" in pins("requirements.txt")
    assert {"libgl1", "libglib2.0-0"} <= set(config["build"]["system_packages"])


def test_the_image_holds_what_the_predictor_needs(config, copied):
    predictor = config["predict"].partition(":")[0]
    named = {predictor, config["build"]["python_requirements"], "dream_o/server/cog_openapi.json"}
    assert named <= set(copied)
    code = {name for name in tracked() if name.startswith("dream_o/")}
    bundle = {name for name in tracked() if name.startswith("weights/miniature/")}
    assert code
    assert bundle
    assert code | bundle <= set(copied)


def test_the_image_holds_nothing_else_of_size(copied):
    unwanted = {".git", ".venv", ".ci", "tests", "docs", "script"}
    assert not [path for path in copied if path.split("/")[0] in unwanted]
    assert not [path for path in copied if path.startswith("output") or "__pycache__" in path]
    assert sum(copied.values()) < 28_000_000


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("weights/miniature/transformer/model.safetensors", True),
        ("weights/manifest.toml", True),
        ("weights/dreamo-v1.1/transformer/model.safetensors", False),
        ("weights/dreamo-v1.1.partial", False),
        ("dream_o/weights/fetch/manifest.py", True),
        ("dream_o/weights/__pycache__/manifest.cpython-311.pyc", False),
        (".cog/tmp/build/requirements.txt", True),
        (".cog/openapi_schema.json", True),
        (".cog/serve/predict.py-Predictor/.cog/openapi_schema.json", False),
        ("output.webp", False),
        ("README.md", True),
        # Cog copies a configuration of another name to cog.yaml inside the image.
        ("cog-dream-render.yaml", True),
        ("LICENSE", True),
    ],
)
def test_what_the_image_copies(path, stays):
    assert ignored(PurePosixPath(path), rules()) != stays
