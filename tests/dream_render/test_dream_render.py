"""DreamRender as a whole: the order of work, what each input changes, what is told and kept."""

import json
import logging
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dream_o.dream_render import generator as module
from dream_o.dream_render import registry
from dream_o.dream_render.checkpoints import CheckpointCache
from dream_o.dream_render.generator import DreamRender
from dream_o.dream_render.keys import hash_key
from dream_o.dream_render.registry import ModelEntry, Registry, Source, read_registry
from dream_o.dream_render.request import RenderRequest
from dream_o.errors import InputError, SettingError, UserError
from dream_o.images.writing import read_metadata, write_image
from dream_o.runtime.threads import SMALL, suited_threads
from dream_o.service.settings import Settings
from tests.dream_render.conftest import KEY, small
from tests.dream_render.tiny_checkpoints import tiny_pipeline


def pixels(dream_render: DreamRender, **changes: Any) -> np.ndarray:
    return np.asarray(dream_render.generate(small(**changes), KEY).image)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> DreamRender:
    """One whose models must not be touched."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing may be loaded, no token generated")

    monkeypatch.setattr(module, "load_checkpoint", refuse)
    monkeypatch.setattr(module.Enhancer, "load", refuse)
    return DreamRender.load(Settings(device="cpu", dev_keys=(KEY,)))


@pytest.mark.parametrize(
    ("key", "changes", "field"),
    [
        # The key comes before anything else that is wrong.
        ("wrong", {}, "dev_key"),
        ("wrong", {"model": "nope", "width": 513, "seed": -5}, "dev_key"),
        (KEY, {"model": "nope"}, "model"),
        (KEY, {"width": 513}, "width"),
        (KEY, {"styles": "nope"}, "styles"),
        (KEY, {"seed": -2}, "seed"),
    ],
)
def test_a_request_that_is_refused_loads_nothing_and_generates_no_token(
    unloaded: DreamRender, key: str, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError) as error:
        unloaded.generate(small(**changes), key)
    assert error.value.name == field


def test_a_model_that_is_not_here_is_refused_by_name(dream_render: DreamRender) -> None:
    with pytest.raises(InputError, match=r"^model: realisticVisionV60B1_v51VAE is not on this"):
        dream_render.generate(small(model="realisticVisionV60B1_v51VAE"), KEY)


@pytest.fixture
def calls(dream_render: DreamRender, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the checkpoint, and what the prompt model is asked."""
    recorded: list[dict[str, Any]] = []

    class Checkpoint:
        unet = torch.nn.Linear(1, 1)

    def paint(pipeline: Any, prompt: str, negative: str, **settings: Any) -> Image.Image:
        recorded.append({"prompt": prompt, "negative": negative} | settings)
        return Image.new("RGB", (settings["width"], settings["height"]), "grey")

    class Echo:
        def enhance(self, prompt: str, **settings: Any) -> str:
            return f"{prompt} {sorted(settings.items())}"

    monkeypatch.setattr(module, "paint", paint)
    monkeypatch.setattr(dream_render, "enhancer", Echo)
    monkeypatch.setattr(dream_render.checkpoints, "get", lambda entry: Checkpoint)
    return recorded


def test_each_input_shows_in_the_call_of_the_model(
    dream_render: DreamRender, calls: list[dict[str, Any]]
) -> None:
    base = small()
    dream_render.generate(base, KEY)
    changes: dict[str, Any] = {
        "prompt": "lamp",
        "width": 128,
        "height": 128,
        "seed": 8,
        "styles": "anime",
        "cfg_scale": 3.0,
        "steps": 5,
        "enable_hr": True,
        "negative_prompt": "blur",
        "prompt_temp": 0.1,
        "prompt_top_p": 0.2,
        "designer": True,
        "enhance_prompt": False,
    }
    # Which model is called shows in what the cache is asked for, tested below.
    assert set(changes) | {"model"} == {field.name for field in fields(RenderRequest)}
    for name, value in changes.items():
        dream_render.generate(replace(base, **{name: value}), KEY)
        assert calls[-1] != calls[0], name
    assert calls[0]["prompt"].startswith("shoe [('seed', 7), ('temperature', 0.8), ('top_p', 0.9)]")


def test_the_model_input_names_the_checkpoint(
    dream_render: DreamRender, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    get = dream_render.checkpoints.get
    monkeypatch.setattr(
        dream_render.checkpoints, "get", lambda entry: asked.append(entry.name) or get(entry)
    )
    for name in ("miniature", "sd_xl_base_1.0"):
        dream_render.generate(small(model=name), KEY)
    assert asked == ["miniature", "sd_xl_base_1.0"]


def test_the_same_request_gives_the_same_bytes_also_in_a_fresh_one(
    dream_render: DreamRender, tmp_path: Path
) -> None:
    request = small(styles="anime", prompt_temp=1.2)
    fresh = DreamRender.load(Settings(device="cpu", dev_keys=(KEY,)))
    written = []
    for each in (dream_render, dream_render, fresh):
        result = each.generate(request, KEY)
        written.append(write_image(result.image, "png", 90, result.metadata, tmp_path).read_bytes())
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"styles": "anime"},
        {"steps": 3},
        {"cfg_scale": 2.0},
        {"negative_prompt": "x"},
        {"prompt": "lamp"},
        {"enhance_prompt": False},
        {"prompt_temp": 0.0},
    ],
)
def test_an_input_changes_the_image(dream_render: DreamRender, changes: dict[str, Any]) -> None:
    assert not np.array_equal(pixels(dream_render), pixels(dream_render, **changes))


def test_size_hires_and_designer_show_in_the_image(dream_render: DreamRender) -> None:
    assert pixels(dream_render, width=72).shape == (64, 72, 3)
    assert pixels(dream_render, enable_hr=True).shape == (128, 128, 3)
    assert pixels(dream_render, designer=True).shape == (64, 64, 4)


def test_a_fresh_seed_is_told_and_makes_the_image_again(dream_render: DreamRender) -> None:
    result = dream_render.generate(small(seed=-1), KEY)
    seed = result.metrics["seed"]
    assert result.metadata["seed"] == seed >= 0
    again = dream_render.generate(small(seed=seed), KEY)
    assert np.array_equal(np.asarray(again.image), np.asarray(result.image))


def test_the_background_of_a_thing_becomes_transparent() -> None:
    picture = Image.new("RGB", (256, 256), (225, 225, 228))
    picture.paste((200, 40, 40), (80, 80, 176, 176))
    cut = module.without_background(picture)
    alpha = np.asarray(cut.getchannel("A"))
    assert cut.mode == "RGBA"
    assert alpha[128, 128] == 255
    assert alpha[:40].max() == alpha[:, -40:].max() == 0


@pytest.mark.parametrize(("kind", "mode"), [("png", "RGBA"), ("webp", "RGBA"), ("jpg", "RGB")])
def test_a_cut_out_keeps_its_alpha_but_for_jpg(kind: str, mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (256, 256), (225, 225, 228))
    picture.paste((200, 40, 40), (80, 80, 176, 176))
    path = write_image(module.without_background(picture), kind, 90, {}, tmp_path)
    with Image.open(path) as read:
        assert read.mode == mode
        corner = np.asarray(read)[2, 2]
    assert corner[-1] == 0 if mode == "RGBA" else corner.min() > 250


def test_metadata_tells_everything_but_the_key(dream_render: DreamRender, tmp_path: Path) -> None:
    request = small(styles="anime", negative_prompt="blur")
    result = dream_render.generate(request, KEY)
    found = read_metadata(write_image(result.image, "jpg", 90, result.metadata, tmp_path))
    assert asdict(request).items() <= found.items()
    assert found["final_prompt"].startswith("anime drawing of shoe, ")
    assert found["final_negative_prompt"].startswith("blur, ")
    assert KEY not in json.dumps(found)


def test_no_log_line_holds_a_key(
    dream_render: DreamRender, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dream_o"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    dream_render.generate(small(), KEY)
    with pytest.raises(InputError):
        dream_render.generate(small(), "not-a-key-of-the-tests")
    assert "prompt: shoe, " in caplog.text
    assert "key" not in caplog.text
    assert KEY not in repr(Settings(dev_keys=(KEY,)))


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two models of one size with different weights."""
    models = {}
    for seed, name in enumerate(("one", "twin")):
        folder = tmp_path_factory.mktemp("models") / name
        tiny_pipeline("sd15", seed).save_pretrained(folder)
        models[name] = ModelEntry(name, "sd15", Source(str(folder)), licence="-", summary="-")
    return Registry("one", models, read_registry().prompt_models)


@pytest.mark.parametrize(("parameters", "threads"), [(SMALL - 1, 1), (SMALL, 3)])
def test_a_small_model_gets_one_thread(parameters: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.device("meta"):
            model = torch.nn.Linear(parameters, 1, bias=False)
        with suited_threads(model):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_two_models_that_take_turns_under_a_bound_for_one(
    two_models: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    original = module.load_checkpoint

    def counted(entry: ModelEntry, *arguments: Any) -> Any:
        loads.append(entry.name)
        return original(entry, *arguments)

    monkeypatch.setattr(module, "load_checkpoint", counted)
    size = module.checkpoint_bytes(two_models.models["one"], torch.float32)
    most: list[int] = []
    get = CheckpointCache.get

    def watched(self: CheckpointCache, entry: ModelEntry) -> Any:
        pipeline = get(self, entry)
        most.append(len(self.loaded))
        return pipeline

    monkeypatch.setattr(CheckpointCache, "get", watched)

    def run(bound: float) -> list[np.ndarray]:
        loads.clear()
        most.clear()
        settings = Settings(dev_keys=(KEY,), model_memory=bound / 2**30)
        each = DreamRender(settings, two_models, torch.device("cpu"), torch.float32)
        return [
            pixels(each, model=model, enhance_prompt=False, seed=seed)
            for model, seed in (("one", 1), ("twin", 1), ("twin", 2), ("one", 1))
        ]

    free = run(10 * size)
    assert loads == ["one", "twin"]
    assert max(most) == 2
    bounded = run(1.5 * size)
    assert loads == ["one", "twin", "one"]
    assert max(most) == 1
    assert all(np.array_equal(one, other) for one, other in zip(free, bounded, strict=True))
    assert not np.array_equal(free[0], free[1])


def test_the_toy_says_that_it_is_one(
    dream_render: DreamRender, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dream_o"):
        dream_render.generate(small(), KEY)
    (line,) = [each for each in caplog.messages if "toy checkpoint" in each]
    assert line.startswith("drawn by miniature, ")
    assert "dream-o render models" in line


@pytest.mark.parametrize(
    ("options", "is_told"),
    [
        ({"width": 512, "height": 512}, False),
        ({"width": 256, "height": 512}, True),
        ({"width": 512, "height": 256}, True),
        ({"width": 512, "height": 512, "enable_hr": True}, True),
    ],
)
def test_the_toy_says_if_it_was_not_trained_for_a_size(
    options: dict[str, Any],
    is_told: bool,
    dream_render: DreamRender,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(DreamRender, "_paint", lambda *_: Image.new("RGB", (8, 8)))
    with caplog.at_level(logging.INFO, "dream_o"):
        dream_render.generate(small(**options), KEY)
    told = [each for each in caplog.messages if "was trained for 512 x 512" in each]
    assert len(told) == is_told


def test_setup_downloads_the_models_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        module, "download", lambda files: fetched.extend(file.source.text for file in files)
    )
    DreamRender.load(
        Settings(device="cpu", dev_keys=(KEY,), fetched_models=("miniature", "dreamshaper_8"))
    )
    assert set(fetched) == {"hf://Lykon/dreamshaper-8"}
    with pytest.raises(SettingError, match="DREAM_RENDER_FETCH='nowhere' is not a model"):
        DreamRender.load(Settings(device="cpu", dev_keys=(KEY,), fetched_models=("nowhere",)))


def test_a_request_passes_by_the_hash_of_its_key(dream_render: DreamRender) -> None:
    hashed = DreamRender.load(Settings(device="cpu", dev_key_hashes=(hash_key(KEY),)))
    with pytest.raises(InputError, match="dev_key: not recognised"):
        hashed.generate(small(), "another")
    image = hashed.generate(small(), KEY).image
    assert image.tobytes() == dream_render.generate(small(), KEY).image.tobytes()


def test_an_unknown_prompt_model_is_a_setting_that_is_named() -> None:
    with pytest.raises(SettingError, match="DREAM_RENDER_PROMPT_MODEL='big' is not a prompt model"):
        DreamRender.load(Settings(dev_keys=(KEY,), prompt_model="big"))


def test_a_prompt_model_that_is_not_here_is_refused_at_once_with_the_command_that_fetches_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "DOWNLOADS", tmp_path)
    with pytest.raises(SettingError, match=r"^DREAM_RENDER_PROMPT_MODEL=.* download magic-prompt`"):
        DreamRender.load(Settings(dev_keys=(KEY,), prompt_model="magic-prompt"))


@pytest.mark.parametrize("where", ["the prompt", "the picture", "the background"])
def test_too_little_memory_is_one_sentence_wherever_it_shows(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("tried to allocate")

    each = DreamRender.load(Settings(device="cpu", dev_keys=(KEY,)))
    if where == "the prompt":
        monkeypatch.setattr(each, "enhancer", exhausted)
    else:
        name = {"the picture": "paint", "the background": "without_background"}[where]
        monkeypatch.setattr(module, name, exhausted)
    with pytest.raises(UserError, match=r"^out of GPU memory; use a smaller width"):
        each.generate(small(designer=where == "the background"), KEY)
