"""The package: what it declares, what its wheel holds, its commands, its public names."""

import re
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import dream_o
from dream_o.cli import main as command_line
from tests import ROOT
from tests.fresh_process import run_fresh

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = ["requirements.txt", "requirements.lock", "requirements-dev.txt", "requirements-page.txt"]
IMPORT = r"^\s*(?:import|from) ([a-zA-Z]\w*)[\w.]*(?: import|$)"
SHIPPED = ("predict.py", "weights/manifest.toml", "weights/models.toml", "weights/README.md")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[<>=[]", each)[0]) for each in requirements}


def locked(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pins = [line.removesuffix(" \\").split("==") for line in lines if re.match(r"\w", line)]
    return {canonical(name): version for name, version in pins}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_the_wheel_holds_the_package_and_what_it_ships(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert archive.read("dream_o/data/predict.py") == (ROOT / "predict.py").read_bytes()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dream_o").rglob("*.py")}
    bundles = [*ROOT.glob("weights/miniature/**/*"), *ROOT.glob("weights/render/**/*")]
    data = {path.relative_to(ROOT).as_posix() for path in bundles if path.is_file()} | {*SHIPPED}
    assert modules <= names
    assert {f"dream_o/data/{name}" for name in data} <= names
    assert {name.split("/")[0] for name in names} == {"dream_o"}


def test_the_installed_package_runs_from_its_own_files(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from dream_o import paths
from dream_o.cli.main import main
assert not paths.IN_CLONE
assert paths.EMBEDDED_BUNDLE.is_dir()
assert main(["render", "models"]) == 0
assert main(["weights", "info", str(paths.EMBEDDED_BUNDLE)]) == 0
assert not {"diffusers", "transformers"} & set(sys.modules), "they take seconds to import"
from dream_o.server.predictors import load_predictor
print(sys.modules[type(load_predictor("predict.py:Predictor")).__module__].__file__)
"""
    shown = run_fresh(code, tmp_path).splitlines()
    assert any(line.startswith("*  miniature") and "yes" in line for line in shown)
    assert shown[-1] == str(tmp_path / "dream_o" / "data" / "predict.py")


def test_the_metadata_names_version_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"dream_o-{dream_o.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        assert (
            "dream-o = dream_o.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        )
    assert metadata["Version"] == dream_o.__version__ == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert {"dev", "train"} <= set(metadata.get_all("Provides-Extra"))


def test_every_library_that_the_package_imports_is_declared() -> None:
    distributions = {"PIL": "pillow", "cv2": "opencv-python"}
    # What an extra is for may import what the extra declares. `library_internals.py` imports Gradio
    # in the one function that the page calls.
    extras = {"batch": "batch", "page": "page", "library_internals.py": "page"}
    found = set()
    for path in [ROOT / "predict.py", *(ROOT / "dream_o").rglob("*.py")]:
        imports = re.findall(IMPORT, path.read_text(), re.M)
        others = set(imports) - sys.stdlib_module_names - {"dream_o"}
        libraries = {canonical(distributions.get(name, name)) for name in others}
        extra = EXTRAS.get(extras.get(path.name) or extras.get(path.parent.name, ""), [])
        assert libraries <= names(PROJECT["dependencies"] + extra), path
        found |= libraries
    assert {"torch", "diffusers", "starlette", "httpx2", "gradio"} <= found


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_holds_every_declared_package_and_names_the_tool_that_made_it(file: str) -> None:
    of = {"requirements-dev.txt": ("dev", "train"), "requirements-page.txt": ("page",)}
    extras = [each for extra in of.get(file, ()) for each in EXTRAS[extra]]
    declared = names(PROJECT["dependencies"] + extras) - {"dream-o"}
    assert declared <= set(locked(file))
    head = (ROOT / file).read_text().splitlines()[:2]
    assert "uv" in head[0]
    assert head[1].removeprefix("#").strip() == "script/lock"


def test_the_locks_agree_and_the_one_with_hashes_has_one_for_every_package() -> None:
    image = locked("requirements.txt")
    assert image == locked("requirements.lock")
    assert image.items() <= locked("requirements-dev.txt").items()
    entries = re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text())[1:]
    assert len(entries) == len(image)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_importing_the_package_help_and_lists_load_no_torch() -> None:
    code = """
import sys
import dream_o
from dream_o.cli.main import main
main(["--help"])
assert main(["weights", "list"]) == 0
assert main(["render", "models"]) == 0
print([name for name in ("torch", "diffusers", "transformers", "numpy") if name in sys.modules])
"""
    assert run_fresh(code).splitlines()[-1] == "[]"


def test_the_public_classes_are_those_of_their_modules() -> None:
    from dream_o.pipeline import DreamOPipeline
    from dream_o.service.generator import DreamO
    from dream_o.service.request import Reference, Request

    assert (dream_o.DreamOPipeline, dream_o.DreamO) == (DreamOPipeline, DreamO)
    assert (dream_o.Request, dream_o.Reference) == (Request, Reference)
    assert set(dream_o.__all__) <= set(dir(dream_o))
    with pytest.raises(AttributeError, match="has no attribute 'Dream'"):
        dream_o.Dream  # noqa: B018


@pytest.mark.parametrize("command", command_line.COMMANDS)
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = command_line.main([*command.split(), "--help"])
    except SystemExit as ended:  # argparse's own help
        status = ended.code
    assert status == 0
    assert capsys.readouterr().out.startswith(f"usage: dream-o {command}")


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name}  " in listed for name in command_line.COMMANDS)
    assert command_line.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{dream_o.__version__}\n"


@pytest.mark.parametrize("argv", [["bake"], ["bake", "--help"], ["-x"]])
def test_an_unknown_command_is_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {argv[0]}: there is no such command; the commands are predict, ")
    assert err.count("\n") == 1


def test_a_command_gets_the_arguments_behind_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["render", "styles"]) == 0
    assert "separate several styles with commas" in capsys.readouterr().out
    assert command_line.main(["render", "form-api", "--target", "ftp://x"]) == 1
    assert capsys.readouterr().err == "error: --target ftp://x: give an http or https URL\n"
