"""`dream-o package`: folders that Cog takes as they are, with what they name and nothing else."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import yaml

from dream_o.cli.package import main
from dream_o.dream_render import registry
from dream_o.dream_render.keys import hash_key
from dream_o.package import contents
from dream_o.references.networks import FILES
from tests import ROOT
from tests.test_cog_yaml import ignored
from tests.weights.hub_server import COMMIT, Hub, serving

THRESHOLD = 10 * 1024 * 1024
NEVER_WEIGHTS = (".py", ".ipynb", ".jpg", ".jpeg", ".png", ".webp", ".svg", ".gif", ".log", ".whl")


def files_in(folder: Path) -> set[str]:
    """Every file, by its path in the folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths}


def rules_of(folder: Path) -> list[str]:
    lines = (folder / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def copied(folder: Path) -> set[str]:
    """What `COPY . /src` takes of a folder."""
    rules = rules_of(folder)
    return {name for name in files_in(folder) if not ignored(PurePosixPath(name), rules)}


def separate_weights(folder: Path, threshold: int) -> set[str]:
    """The folders that `--separate-weights` copies first (Cog 0.22's pkg/weightslegacy).

    Those of large files that are neither code nor images, unless the name of a file of code
    begins with the folder's name. A folder below another one is left out.
    """
    files = files_in(folder)
    code = [name for name in files if name.endswith((".py", ".ipynb"))]
    large = [
        name
        for name in files
        if (folder / name).stat().st_size >= threshold
        and not name.endswith(NEVER_WEIGHTS)
        and not name.startswith((".cog", ".git", "__pycache__"))
    ]
    folders = {str(PurePosixPath(name).parent) for name in large} - {"."}
    outer = {
        each
        for each in folders
        if not any(f"{each}/".startswith(f"{o}/") for o in folders - {each})
    }
    return {each for each in outer if not any(name.startswith(each) for name in code)}


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Stand-ins of the reference networks, in a weights folder of their own."""
    weights = tmp_path / "weights"
    manifest = tmp_path / "manifest.toml"
    entries = []
    (weights / "references").mkdir(parents=True)
    for name in FILES:
        content = f"network {name}".encode() * 1000
        (weights / "references" / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        entries.append(f'{{ path = "{name}", sha256 = "{digest}" }}')
    manifest.write_text(
        '[networks]\ntitle = "-"\nrepository = "maker/networks"\nrevision = "main"\n'
        'licence = "MIT"\nfolder = "references"\ngroup = "references"\noptional = true\n'
        f"files = [{', '.join(entries)}]\n"
    )
    monkeypatch.setattr(contents, "WEIGHTS", weights)
    monkeypatch.setattr(contents, "REFERENCE_NETWORKS", weights / "references")
    monkeypatch.setattr(contents, "MANIFEST", manifest)
    return weights / "references"


@pytest.fixture
def bundle(fused, tmp_path):
    """A bundle in a folder where people keep other things too."""
    folder = tmp_path / "kept" / "dream-o-v1.1"
    shutil.copytree(fused("v1.1", True), folder)
    (folder / "secret.png").write_bytes(b"private")
    (folder / ".env").write_text("HF_TOKEN=hf_secret")
    return folder


def package(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_baked_folder_holds_what_the_image_needs_and_nothing_else(
    bundle, networks, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("dream_o.package.folder.LINKED", 100_000)
    output = tmp_path / "image"
    assert package(bundle, "--output", output) == 0
    names = files_in(output)
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        ".dockerignore",
        "cog.yaml",
        "dream_o",
        "predict.py",
        "requirements.txt",
        "LICENSE",
        "NOTICE",
        "weights",
    }
    assert {name.split("/")[1] for name in names if name.startswith("weights/")} == {
        "dream-o-v1.1",
        "miniature",
        "references",
        "manifest.toml",
    }
    assert not [name for name in names if name.endswith((".env", ".png", ".pyc"))]
    assert {f"weights/references/{name}" for name in FILES} <= names
    assert copied(output) == names - {".dockerignore"}
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert (output / "weights/dream-o-v1.1" / name).samefile(bundle / name)
    text = capsys.readouterr().out
    assert "weights/dream-o-v1.1" in text
    assert "DreamO v1.1, float32, with turbo" in text
    assert "Cog 0.23.0 or newer" in text
    assert "driver 580 or newer" in text
    assert "in all" in text


def test_its_cog_yaml_names_the_bundle_and_the_backend(bundle, networks, tmp_path):
    output = tmp_path / "image"
    assert package(bundle, "--output", output) == 0
    config = yaml.safe_load((output / "cog.yaml").read_text())
    assert config["predict"] == "predict.py:Predictor"
    assert config["environment"] == [
        "DREAM_O_WEIGHTS=/src/weights/dream-o-v1.1",
        "DREAM_O_REFERENCES=networks",
    ]
    original = yaml.safe_load((ROOT / "cog.yaml").read_text())
    assert config["build"] == original["build"]


def test_what_is_put_into_the_folder_later_stays_out_of_the_image(bundle, networks, tmp_path):
    output = tmp_path / "image"
    assert package(bundle, "--output", output) == 0
    before = copied(output)
    for name in (
        ".env",
        "ann.png",
        "output.webp",
        "weights/base/model.safetensors",
        "weights/hub/x/model.safetensors",
        "dream_o/__pycache__/errors.cpython-311.pyc",
        ".cog/serve/openapi_schema.json",
    ):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("private")
    assert copied(output) == before


@pytest.mark.parametrize("threshold", [THRESHOLD, 10_000])
def test_separate_weights_copies_only_what_the_folder_lets_in(
    bundle, networks, tmp_path, threshold
):
    """Every folder that Cog copies in a layer of its own has all its files in the context."""
    output = tmp_path / "image"
    assert package(bundle, "--output", output) == 0
    separate = separate_weights(output, threshold)
    if threshold < THRESHOLD:  # the test's bundle is small
        assert {each for each in separate if "dream-o-v1.1" in each}
        assert "weights/references" in separate
    for folder in separate:
        inside = {name for name in files_in(output) if name.startswith(f"{folder}/")}
        assert inside <= copied(output)
    assert not [each for each in separate if each.startswith("dream_o")]


def test_without_networks_the_image_says_how_references_are_prepared(bundle, tmp_path, capsys):
    output = tmp_path / "image"
    assert package(bundle, "--output", output, "--no-networks") == 0
    config = yaml.safe_load((output / "cog.yaml").read_text())
    assert "DREAM_O_REFERENCES=offline" in config["environment"]
    assert not (output / "weights/references").exists()
    assert "GrabCut, Haar cascades and the small networks" in capsys.readouterr().out


def test_missing_networks_are_an_error_that_says_what_to_do(bundle, networks, tmp_path, capsys):
    (networks / FILES[0]).unlink()
    assert package(bundle, "--output", tmp_path / "image") == 1
    error = capsys.readouterr().err
    assert FILES[0] in error
    assert "dream-o weights download references" in error
    assert "--no-networks" in error
    assert not (tmp_path / "image").exists()


def test_a_network_that_is_another_file_is_refused(bundle, networks, tmp_path, capsys):
    (networks / FILES[0]).write_bytes(b"another")
    assert package(bundle, "--output", tmp_path / "image") == 1
    assert "does not have the manifest's digest" in capsys.readouterr().err


def test_a_damaged_bundle_is_refused_before_anything_is_written(bundle, tmp_path, capsys):
    (path,) = (bundle / "vae").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert package(bundle, "--output", tmp_path / "image", "--no-networks") == 1
    assert "vae/diffusion_pytorch_model.safetensors is damaged" in capsys.readouterr().err
    assert not (tmp_path / "image").exists()


def test_a_folder_of_the_users_is_never_replaced_and_an_earlier_one_is(bundle, tmp_path, capsys):
    output = tmp_path / "image"
    output.mkdir()
    (output / "mine").write_text("mine")
    assert package(bundle, "--output", output, "--no-networks") == 1
    assert "contains other files" in capsys.readouterr().err
    assert (output / "mine").read_text() == "mine"
    (output / "mine").unlink()
    assert package(bundle, "--output", output, "--no-networks") == 0
    (output / "weights/dream-o-v1.1/stale").write_text("old")
    assert package(bundle, "--output", output, "--no-networks") == 0
    assert not (output / "weights/dream-o-v1.1/stale").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"image", "kept"}


def test_the_packaged_folder_runs_alone(bundle, tmp_path):
    """The code in the folder finds its miniature and its bundle without the clone."""
    output = tmp_path / "image"
    assert package(bundle, "--output", output, "--no-networks") == 0
    code = (
        "from dream_o import paths; from dream_o.weights.fetch.locate import locate;"
        "print(paths.SHIPPED); print(locate(None).folder); print(locate('miniature').folder)"
    )
    environment = {**os.environ, "PYTHONPATH": str(output)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=output,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [
        str(output),
        str(output / "weights/dream-o-v1.1"),
        str(output / "weights/miniature"),
    ]


def test_compiled_code_can_be_baked(bundle, tmp_path, capsys):
    compiled = tmp_path / "compiled-code"
    arguments = (bundle, "--output", tmp_path / "image", "--no-networks")
    assert package(*arguments, "--compiled", compiled) == 1
    assert "contains no compiled code" in capsys.readouterr().err
    (compiled / "ab").mkdir(parents=True)
    (compiled / "ab" / "kernel.py").write_text("pass")
    assert package(*arguments, "--compiled", compiled) == 0
    config = yaml.safe_load((tmp_path / "image/cog.yaml").read_text())
    assert "TORCHINDUCTOR_CACHE_DIR=/src/compiled" in config["environment"]
    assert "compiled/ab/kernel.py" in copied(tmp_path / "image")


@pytest.fixture
def hub(bundle, networks, monkeypatch):
    """A hub that has the bundle as me/dreamo, and the networks in a repository of their own."""
    files = {
        f"me/dreamo/{path.relative_to(bundle).as_posix()}": path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    files |= {f"maker/networks/{path.name}": path.read_bytes() for path in networks.iterdir()}
    with serving(Hub(files)) as running:
        monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: running.url)
        yield running


def test_a_bundle_is_fetched_at_setup_from_the_commit_that_was_seen(hub, bundle, tmp_path, capsys):
    output = tmp_path / "image"
    assert package(bundle, "--output", output, "--fetch", "hf://me/dreamo") == 0
    config = yaml.safe_load((output / "cog.yaml").read_text())
    assert config["environment"] == [
        f"DREAM_O_WEIGHTS=hf://me/dreamo@{COMMIT}",
        "DREAM_O_REFERENCES=fetch",
    ]
    assert not (output / "weights/dream-o-v1.1").exists()
    assert "Each cold start downloads" in capsys.readouterr().out


def test_networks_beside_the_bundle_come_from_there(hub, networks, tmp_path):
    for path in networks.iterdir():
        hub.files[f"me/dreamo/references/{path.name}"] = path.read_bytes()
    assert package("--output", tmp_path / "image", "--fetch", "hf://me/dreamo") == 0
    config = yaml.safe_load((tmp_path / "image/cog.yaml").read_text())
    assert f"DREAM_O_REFERENCES=hf://me/dreamo@{COMMIT}/references" in config["environment"]


def test_another_bundle_in_the_repository_is_refused(hub, bundle, fused, tmp_path, capsys):
    hub.files["me/dreamo/bundle.json"] = (fused("v1", True) / "bundle.json").read_bytes()
    assert package(bundle, "--output", tmp_path / "image", "--fetch", "hf://me/dreamo") == 1
    assert "the bundle in me/dreamo is not the one in dream-o-v1.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name the bundle's folder"),
        (["--fetch"], "needs the bundle's address"),
        (["--fetch", "hf://me/dreamo/file"], "hf://owner/repository[@revision]"),
        (["--checkpoint", "miniature"], "--predictor dream-render"),
        (["missing"], "does not exist"),
        (["missing", "--fetch", "hf://me/dreamo"], "does not exist"),
        (["missing", "--predictor", "dream-render"], "has no bundle"),
        (["--predictor", "dream-render", "--checkpoint", "nowhere"], "'nowhere' is not known"),
        (["--predictor", "dream-render", "--checkpoint", "dreamshaper_8"], "is not downloaded"),
        (
            ["--predictor", "dream-render", "--dev-key-hash", "my-key"],
            "`dream-o render hash-key` makes one",
        ),
    ],
)
def test_what_cannot_be_packaged_is_one_sentence(arguments, words, tmp_path, capsys):
    assert package(*arguments, "--output", tmp_path / "image", "--no-networks") == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "my-key" not in error


def test_dream_render_takes_its_checkpoints_and_hashes_of_keys(
    networks, tmp_path, monkeypatch, capsys
):
    downloads = tmp_path / "weights/checkpoints"
    monkeypatch.setattr(registry, "DOWNLOADS", downloads)
    entry = registry.read_registry().models["dreamshaper_8"]
    for file in entry.files:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.path.write_text(file.name)
    (downloads / "Lykon/dreamshaper-8/private.txt").write_text("private")
    hashed = hash_key("first-key")
    output = tmp_path / "image"
    options = ("--predictor", "dream-render", "--checkpoint", "dreamshaper_8")
    assert package(*options, "--dev-key-hash", hashed, "--output", output) == 0
    config = yaml.safe_load((output / "cog.yaml").read_text())
    assert config["predict"] == "predict.py:DreamRenderPredictor"
    assert f"DREAM_RENDER_DEV_KEY_HASHES={hashed}" in config["environment"]
    names = files_in(output)
    below = "weights/checkpoints/Lykon/dreamshaper-8/"
    assert {name.removeprefix(below) for name in names if name.startswith(below)} == {
        file.name for file in entry.files
    }
    assert {"weights/models.toml", "weights/render/miniature/model_index.json"} <= names
    assert copied(output) == names - {".dockerignore"}
    capsys.readouterr()


def test_dream_render_can_download_its_checkpoints_at_setup(tmp_path, capsys):
    options = ("--predictor", "dream-render", "--checkpoint", "dreamshaper_8", "--fetch")
    assert package(*options, "--output", tmp_path / "image", "--no-networks") == 0
    config = yaml.safe_load((tmp_path / "image/cog.yaml").read_text())
    assert "DREAM_RENDER_FETCH=dreamshaper_8" in config["environment"]
    text = capsys.readouterr().out
    assert "No key is accepted until the container gets DREAM_RENDER_DEV_KEYS" in text
