"""Which bundle is used: a folder, an address, or the best one in the weights folder."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dream_o.errors import BundleError, SettingError
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.generator import DreamO
from dream_o.service.settings import Settings
from dream_o.weights.fetch.locate import best, locate
from dream_o.weights.format.bundle import read_record, write_bundle
from tests.weights.hub_server import Hub, serving

Fused = Callable[[str, bool], Path]


@pytest.fixture
def place(fused: Fused, tmp_path: Path) -> Callable[..., Path]:
    """Puts a bundle with a changed bundle.json into a weights folder."""

    def put(name: str, **changes: object) -> Path:
        folder = Path(shutil.copytree(fused("v1.1", True), tmp_path / "weights" / name))
        write_bundle(folder, replace(read_record(folder / "bundle.json"), **changes))
        return folder

    return put


def test_the_embedded_bundle_is_used_if_there_is_no_other(place: Callable[..., Path]) -> None:
    folder = place(EMBEDDED_BUNDLE.name).parent
    assert best(folder).folder == EMBEDDED_BUNDLE


def test_the_best_bundle_depends_on_version_then_turbo_then_precision(
    place: Callable[..., Path],
) -> None:
    ranked = [
        place("a", model_version="v1", turbo=True),
        place("b", model_version="v1.1", turbo=False),
        place("c", model_version="v1.1", turbo=True, precision="int8"),
        place("d", model_version="v1.1", turbo=True),
    ]
    folder = ranked[0].parent
    (folder / "base").mkdir()
    while ranked:
        assert locate(None, folder).folder == ranked.pop()
        shutil.rmtree(best(folder).folder)


def test_unfinished_and_damaged_bundles_are_skipped(
    place: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    place(".dream-o.partial-1", model_version="v1.1")
    whole, broken = place("a", model_version="v1"), place("b", model_version="v1.1")
    (broken / "vae/config.json").unlink()
    assert best(whole.parent).folder == whole
    assert "b is skipped: vae/config.json is missing" in caplog.text
    shutil.rmtree(whole)
    with pytest.raises(BundleError, match=r"vae/config\.json is missing"):
        best(broken.parent)
    shutil.rmtree(broken)
    assert best(broken.parent).folder == EMBEDDED_BUNDLE


@pytest.mark.parametrize(
    "address",
    [
        "https://user:SECRET@host.invalid/bundle",
        "https://SECRET@host.invalid/bundle",
        "https://host.invalid/bundle?token=SECRET",
        "https://host.invalid/bundle#SECRET",
        "http://[SECRET/bundle",
        "https://host.invalid:SECRET/bundle",
        "hf://user:SECRET@host/bundle",
        "hf://me/dreamo?token=SECRET",
        "s3://user:SECRET@bucket/bundle",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_repeated(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(BundleError) as raised:
        DreamO.load(Settings(weights=address, device="cpu"))
    with pytest.raises(BundleError):
        locate(address, tmp_path)
    assert "SECRET" not in str(raised.value)
    assert "SECRET" not in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_read_as_a_bundle(fused: Fused, tmp_path: Path) -> None:
    assert locate(str(fused("v1", True))).folder == fused("v1", True)
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        locate(str(tmp_path))


def test_setup_fetches_a_bundle_from_the_hub(
    fused: Fused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "dream_o")
    bundle = fused("v1.1", True)
    files = {
        f"me/dreamo/{path.relative_to(bundle).as_posix()}": path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    monkeypatch.setattr("dream_o.weights.fetch.locate.locate.__defaults__", (tmp_path,))
    with serving(Hub(files)) as hub:
        monkeypatch.setattr("dream_o.weights.fetch.hub.endpoint", lambda: hub.url)
        settings = Settings(weights="hf://me/dreamo@main", device="cpu")
        loaded = DreamO.load(settings)
        assert "loaded me--dreamo@main" in caplog.text
        assert loaded.model_version.endswith(", float32)")  # no name of a folder or repository
    caplog.clear()
    DreamO.load(settings)
    assert "loaded me--dreamo@main" in caplog.text  # the hub is gone by now


def test_the_argument_of_setup_wins_over_the_setting(
    fused: Fused, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dream_o")
    settings = Settings(weights="nowhere", device="cpu")
    bundle = fused("v1.1", True)
    DreamO.load(settings, str(bundle))
    assert f"loaded {bundle.name} " in caplog.text
    with pytest.raises(SettingError, match=r"^DREAM_O_WEIGHTS='nowhere' does not exist; name"):
        DreamO.load(settings)
    with pytest.raises(SettingError, match=r"^COG_WEIGHTS='no/where' does not exist; name"):
        DreamO.load(settings, "no/where")
