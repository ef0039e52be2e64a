"""The models that can be named: the registry file, its tables, and fetching an entry."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import file_download

from dream_o.cli.render import main
from dream_o.dream_render import download, registry, sheet
from dream_o.dream_render.registry import (
    DOWNLOADS,
    FAMILIES,
    REGISTRY,
    ModelEntry,
    Source,
    read_registry,
)
from dream_o.errors import BundleError, UserError
from dream_o.weights.fetch.address import HubAddress
from tests import ROOT
from tests.weights.hub_server import Hub, serving


def test_the_default_is_here_and_small() -> None:
    found = read_registry()
    entry = found.models[found.default]
    assert (found.default, entry.family, entry.installed) == ("miniature", "sd15", True)
    files = [path for path in entry.source.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_the_documents_model_and_others_of_both_families_are_known() -> None:
    models = read_registry().models
    realistic = models["realisticVisionV60B1_v51VAE"]
    assert realistic.source.hub_address.repository == "SG161222/Realistic_Vision_V6.0_B1_noVAE"
    assert realistic.single_file
    assert realistic.vae
    assert realistic.vae.hub_address.repository == "stabilityai/sd-vae-ft-mse"
    others = [each for each in models.values() if each.source.on_hub and each != realistic]
    assert len(others) >= 5
    assert {each.family for each in others} == set(FAMILIES)
    assert {each.single_file for each in others} == {True, False}
    assert all(each.licence and each.summary for each in models.values())


@pytest.mark.parametrize(
    ("text", "address", "path"),
    [
        ("hf://owner/name", ("owner/name", None, ""), "owner/name"),
        ("hf://owner/name@v1", ("owner/name", "v1", ""), "owner/name@v1"),
        (
            "hf://owner/name@v1/a/b.safetensors",
            ("owner/name", "v1", "a/b.safetensors"),
            "owner/name@v1/a/b.safetensors",
        ),
    ],
)
def test_a_source_on_the_hub_has_an_address_and_a_place(
    text: str, address: tuple[str, str | None, str], path: str
) -> None:
    source = Source(text)
    assert source.on_hub
    assert source.hub_address == HubAddress(*address)
    assert source.path == DOWNLOADS / path


def test_a_path_starts_at_the_projects_root(tmp_path: Path) -> None:
    assert Source("weights/x").path == ROOT / "weights" / "x"
    assert Source(str(tmp_path)).path == tmp_path


def test_an_entry_names_the_files_it_needs() -> None:
    entry = ModelEntry(
        name="x",
        family="sdxl",
        source=Source("hf://a/b"),
        licence="-",
        summary="-",
        vae=Source("hf://c/d"),
        variant="fp16",
    )
    names = [f"{file.source.hub_address.repository}:{file.name}" for file in entry.files]
    assert "a/b:unet/diffusion_pytorch_model.fp16.safetensors" in names
    assert "a/b:text_encoder_2/model.fp16.safetensors" in names
    assert "c/d:diffusion_pytorch_model.safetensors" in names
    assert not any(name.startswith("a/b:vae") for name in names)
    single = ModelEntry(
        name="x",
        family="sd15",
        source=Source("hf://a/b/w.safetensors"),
        licence="-",
        summary="-",
        tokenizer=Source("hf://c/d"),
    )
    assert [file.path.relative_to(DOWNLOADS).as_posix() for file in single.files] == [
        "a/b/w.safetensors",
        *(
            f"c/d/tokenizer/{name}"
            for name in ("vocab.json", "merges.txt", "tokenizer_config.json")
        ),
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('default = "miniature"', 'default = "none"', "default='none' is not among the models"),
        ('family = "sdxl"', 'family = "sd9"', "family 'sd9' is not known; use sd15 or sdxl"),
        ("default =", "default", "this is not a registry"),
        ('licence = "MIT"', "", "this is not a registry"),
        ('tokenizer = "hf://', 'summary = "', "this is not a registry"),
    ],
)
def test_a_registry_that_is_wrong_says_what(
    old: str, new: str, problem: str, tmp_path: Path
) -> None:
    text = REGISTRY.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "models.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_registry(path)
    assert problem in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_the_tables_mark_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    models = capsys.readouterr().out
    assert [line.split()[1:4] for line in models.splitlines() if line.startswith("* ")] == [
        ["miniature", "sd15", "yes"],
        ["comes", "with", "the"],
        ["embedded", "yes", "Apache-2.0"],
        ["is", "used", "unless"],
    ]
    for name in read_registry().models:
        (line,) = [each for each in models.splitlines() if name in each.split()[:2]]
        assert "DPM++ 2M Karras" in line
    assert main(["styles"]) == 0
    styles = capsys.readouterr().out.splitlines()
    assert styles[1].split()[:2] == ["*", "None"]
    assert any(line.split()[:1] == ["anime"] for line in styles)


def test_sheets_are_written_into_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sheet, "make_sheets", lambda folder, *_: [folder.resolve()])
    assert main(["sheet"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one small model, which the registry lists as `tiny`."""
    files = {
        f"a/b/{part}/{name}".replace("//", "/").format(infix=""): f"{part}{name}".encode()
        for part, names in registry.PARTS.items()
        for name in names
    }
    monkeypatch.setattr(registry, "DOWNLOADS", tmp_path / "checkpoints")
    monkeypatch.setattr(download, "DOWNLOADS", tmp_path / "checkpoints")
    listed = tmp_path / "models.toml"
    listed.write_text(
        'default = "tiny"\n[models.tiny]\nfamily = "sd15"\nsource = "hf://a/b"\nlicence = "-"\n'
        'summary = "-"\n[prompt_models]\n'
    )
    monkeypatch.setattr("dream_o.cli.render.read_registry", lambda: read_registry(listed))
    monkeypatch.setattr(file_download.time, "sleep", lambda _: None)
    with serving(Hub(files)) as running:
        monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: running.url)
        yield running


def test_an_entry_is_fetched_once(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoints" / "a" / "b"
    assert main(["download", "tiny"]) == 0
    assert "tiny: 11 files fetched" in capsys.readouterr().out
    name = "diffusion_pytorch_model.safetensors"
    assert (folder / "unet" / name).read_bytes() == hub.files[f"a/b/unet/{name}"]
    assert not (folder / "text_encoder_2").exists()
    asked = sum(hub.requests.values())
    assert main(["download", "tiny"]) == 0
    assert "tiny: already here" in capsys.readouterr().out
    assert sum(hub.requests.values()) == asked


def test_a_failing_download_is_one_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "tinny"]) == 1
    assert "'tinny' is not known; the nearest are tiny" in capsys.readouterr().err
    monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: "http://127.0.0.1:1")
    assert main(["download", "tiny"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "no connection" in error
    with pytest.raises(BundleError):
        download.download(read_registry().models["epicrealism"].files)
