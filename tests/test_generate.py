import logging
import threading
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from PIL import Image

from dream_o.errors import BundleError, InputError, OutOfMemoryError, SettingError, UserError
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime.plans import Placement
from dream_o.service import encoded_inputs
from dream_o.service import generator as generate
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from dream_o.stopwatch import Stopwatch

SMALL = {"width": 96, "height": 64, "num_steps": 2, "ref_res": 64}


@pytest.fixture(scope="module")
def dream_o(fused):
    dream_o = DreamO.load(Settings(device="cpu"), fused("v1.1", True))
    dream_o.pipeline.set_progress_bar_config(disable=True)
    return dream_o


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "hill.png"
    Image.linear_gradient("L").resize((120, 90)).convert("RGB").save(path)
    return path


def test_a_request_gives_an_image_and_what_is_needed_to_make_it_again(dream_o, picture):
    request = Request("a hill", (Reference(picture, "style"), Reference(None, "ip")), **SMALL)
    result = dream_o.generate(request)
    assert (result.image.mode, result.image.size) == ("RGB", (96, 64))
    assert result.metadata["prompt"] == "a hill"
    assert result.metadata["ref_task1"] == "style"
    assert result.metadata["model"].startswith("DreamO v1.1 (dream-o ")
    assert not any("image" in name for name in result.metadata)
    assert str(picture) not in str(result.metadata)

    seed = result.metadata["seed"]
    assert seed == result.metrics["seed"]
    again = dream_o.generate(Request("a hill", request.references, seed=seed, **SMALL))
    assert again.image.tobytes() == result.image.tobytes()


def test_metrics_are_seed_steps_and_seconds_by_stage(dream_o, picture):
    metrics = dream_o.generate(
        Request(
            "a hill that no other test asks for", (Reference(picture, "style"),), seed=5, **SMALL
        )
    ).metrics
    assert metrics.pop("seed") == 5
    assert metrics.pop("steps") == 2
    assert metrics.pop("speed") == "exact"
    assert metrics.pop("model").startswith("DreamO v1.1 (dream-o ")
    stages = ("prompt", "references", "denoising", "decoding")
    assert set(metrics) == {f"seconds.{stage}" for stage in stages}
    assert all(seconds > 0 for seconds in metrics.values())


def test_slot_numbers_are_kept(dream_o, picture):
    used, empty = Reference(picture, "style"), Reference(None, "style")
    first = dream_o.generate(Request("a hill", (used, empty), seed=5, **SMALL))
    second = dream_o.generate(Request("a hill", (empty, used), seed=5, **SMALL))
    assert first.image.tobytes() != second.image.tobytes()


def test_a_reference_is_prepared_and_encoded_once_and_the_image_is_the_same(
    fused, picture, monkeypatch
):
    dream_o = DreamO.load(Settings(device="cpu"), fused("v1.1", True))
    work = []
    for owner, name in (
        (encoded_inputs, "open_image"),
        (encoded_inputs, "prepare_with_remarks"),
        (dream_o.pipeline, "encode_reference"),
    ):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, _o=original, _n=name: work.append(_n) or _o(*args)
        )
    request = Request("a hill", (Reference(picture, "style"),), seed=5, **SMALL)
    first, second = dream_o.generate(request), dream_o.generate(request)
    once = ["open_image", "prepare_with_remarks", "encode_reference"]
    assert work == once
    assert first.image.tobytes() == second.image.tobytes()

    other_size = Request("a hill", request.references, seed=5, **SMALL | {"ref_res": 96})
    dream_o.generate(other_size)
    assert work[3:] == once

    Image.new("RGB", (300, 200), "orange").save(picture)
    assert dream_o.generate(request).image.tobytes() != first.image.tobytes()
    assert work[6:] == once


def test_remarks_about_references_are_in_the_metrics_and_in_the_log_each_time(
    dream_o, picture, caplog
):
    Image.new("RGB", (120, 90), "teal").save(picture)
    request = Request("a hill", (Reference(None, "ip"), Reference(picture, "ip")), **SMALL)
    for _ in range(2):
        caplog.clear()
        remark = dream_o.generate(request).metrics["remarks.ref_image2"]
        assert remark.startswith("no subject was told from its background")
        assert caplog.messages.count(f"ref_image2: {remark}") == 1
    assert dream_o.prepare(request)[1].remarks == (remark,)


def test_a_refused_request_leaves_the_next_one_as_it_was(dream_o, picture):
    request = Request("a hill", seed=5, **SMALL)
    before = dream_o.generate(request).image
    with pytest.raises(InputError, match=r"^ref_image2: "):
        dream_o.generate(
            Request("x", (Reference(None, "ip"), Reference(Path(__file__), "ip")), **SMALL)
        )
    assert dream_o.generate(request).image.tobytes() == before.tobytes()


def test_out_of_memory_says_what_to_change_and_the_next_request_works(dream_o, monkeypatch):
    request = Request("a hill", seed=5, **SMALL)
    before = dream_o.generate(request).image

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patched:
        patched.setattr(dream_o.pipeline.transformer, "forward", full)
        with pytest.raises(UserError, match="out of GPU memory; use a smaller width") as error:
            dream_o.generate(request)
    assert error.value.__cause__ is None
    assert dream_o.generate(request).image.tobytes() == before.tobytes()


def test_what_is_kept_is_dropped_when_memory_runs_out(dream_o, picture, monkeypatch):
    request = Request("a pond", (Reference(picture, "style"),), seed=5, **SMALL)
    before = dream_o.generate(request).image
    work = []
    for owner, name in (
        (encoded_inputs, "open_image"),
        (dream_o.pipeline, "encode_reference"),
        (dream_o.pipeline, "encode_prompt"),
    ):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, _o=original, _n=name: work.append(_n) or _o(*args)
        )

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(dream_o.pipeline.transformer, "forward", full)
        with pytest.raises(UserError, match="out of GPU memory"):
            dream_o.generate(request)
    assert work == [], "until then all of it was kept"
    assert dream_o.generate(request).image.tobytes() == before.tobytes()
    assert work == ["open_image", "encode_reference", "encode_prompt"]


def test_an_out_of_memory_error_of_a_reference_network_keeps_its_message(
    dream_o, picture, monkeypatch
):
    request = Request("a pond", (Reference(picture, "style"),), seed=5, **SMALL)
    before = dream_o.generate(request).image
    other = Request("a pond", (Reference(picture, "ip"),), seed=5, **SMALL)

    def full(*args):
        raise OutOfMemoryError("out of GPU memory while BEN2_Base.onnx prepared a reference")

    with monkeypatch.context() as patched:
        patched.setattr(encoded_inputs, "prepare_with_remarks", full)
        with pytest.raises(UserError, match=r"^out of GPU memory while BEN2"):
            dream_o.generate(other)
    assert dream_o.encoded.nbytes == 0, "what is kept was not dropped"
    assert dream_o.generate(request).image.tobytes() == before.tobytes()


def test_what_is_loaded_is_logged(fused, caplog):
    with caplog.at_level(logging.INFO, "dream_o"):
        DreamO.load(Settings(device="cpu", weights=str(fused("v1.1", True))))
    assert "(DreamO v1.1) in torch.float32 in " in caplog.text
    assert "references are prepared " in caplog.text


def test_a_folder_that_is_no_bundle_is_refused_without_its_path(tmp_path):
    with pytest.raises(BundleError) as error:
        DreamO.load(Settings(device="cpu"), tmp_path)
    assert str(tmp_path) not in str(error.value)


def test_a_device_that_is_not_there_is_refused(fused):
    with pytest.raises(SettingError, match="DREAM_O_DEVICE='cuda:77'"):
        DreamO.load(Settings(device="cuda:77"), fused("v1.1", True))


def test_a_prompt_is_encoded_once_until_memory_is_needed(dream_o, monkeypatch):
    encoded = []
    encode = dream_o.pipeline.encode_prompt
    monkeypatch.setattr(
        dream_o.pipeline, "encode_prompt", lambda text: encoded.append(text) or encode(text)
    )
    request = Request("a lake", (), seed=5, neg_prompt="fog", **SMALL)
    images = {dream_o.generate(request).image.tobytes() for _ in range(2)}
    assert encoded == ["a lake"], "without true CFG nothing is to be avoided"
    assert len(images) == 1
    dream_o.generate(Request("a lake", (), seed=5, neg_prompt="fog", true_cfg=2.0, **SMALL))
    assert encoded == ["a lake"], "nor in an empty window"
    guided = {"true_cfg": 2.0, "cfg_end_step": 2}
    for _ in range(2):
        dream_o.generate(Request("a lake", (), seed=5, neg_prompt="fog", **SMALL, **guided))
    assert encoded == ["a lake", "fog"]
    assert dream_o.encoded._prompts.bytes <= encoded_inputs.PROMPT_BYTES


def test_all_of_a_models_work_is_done_in_one_thread(fused, picture, monkeypatch):
    threads = []
    for owner, name in (
        (generate, "apply_placement"),
        (encoded_inputs, "prepare_with_remarks"),
        (DreamOPipeline, "__call__"),
        (DreamOPipeline, "encode_prompt"),
        (DreamOPipeline, "encode_reference"),
    ):
        original = getattr(owner, name)

        def seen(*args, _o=original, **kwargs):
            threads.append(threading.get_ident())
            return _o(*args, **kwargs)

        monkeypatch.setattr(owner, name, seen)
    dream_o = DreamO.load(Settings(device="cpu"), fused("v1.1", True))
    request = Request("a hill", (Reference(picture, "style"),), **SMALL)
    callers = [threading.Thread(target=dream_o.generate, args=(request,)) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(threads) == 1 + 3 + 2
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


@pytest.mark.parametrize(
    ("device", "side", "references"), [("cuda", 1024, [0, 1, 2]), ("cpu", 768, [0, 1])]
)
def test_the_warm_up_has_the_shapes_of_requests(dream_o, monkeypatch, device, side, references):
    made = []

    def make(prompt, references, *, height, width, num_inference_steps):
        made.append((height, width, [each.size for each in references]))

    monkeypatch.setattr(generate, "execution_device", lambda _: torch.device(device))
    monkeypatch.setattr(
        type(dream_o.pipeline), "__call__", lambda _, *args, **kw: make(*args, **kw)
    )
    dream_o.warm_up()
    sizes = [[(side // 2, side // 2)] * count for count in references]
    assert made == [(side, side, each) for each in sizes]


@pytest.mark.parametrize(("device", "times"), [("cuda", 1), ("cpu", 0)])
def test_eager_blocks_are_warmed_up_on_cuda_only(fused, monkeypatch, device, times):
    made = []
    monkeypatch.setattr(generate, "pick_devices", lambda _: [torch.device(device)])
    monkeypatch.setattr(generate, "placement_for", lambda *_: Placement("none"))
    monkeypatch.setattr(generate, "apply_placement", lambda *_: None)  # it stays on the CPU
    monkeypatch.setattr(generate, "Stopwatch", lambda _: Stopwatch(torch.device("cpu")))
    monkeypatch.setattr(DreamO, "warm_up", lambda _: made.append(threading.get_ident()))
    loaded = DreamO.load(Settings(speed="exact", references="offline"), fused("v1.1", True))
    assert made == [loaded.thread.call(threading.get_ident)] * times


def test_the_metadata_holds_every_setting_of_the_request(dream_o, picture):
    settings = SMALL | {
        "guidance": 4.5,
        "seed": 2**63 + 1,
        "neg_prompt": "rain",
        "neg_guidance": 2.5,
        "true_cfg": 2.0,
        "cfg_start_step": 1,
        "cfg_end_step": 2,
        "first_step_guidance": 1.5,
    }
    named = {field.name for field in fields(Request)} - {"prompt", "references"}
    assert settings.keys() == named
    request = Request("a hill", (Reference(None, "ip"), Reference(picture, "style")), **settings)
    assert all(getattr(request, f.name) != f.default for f in fields(Request) if f.name in named)
    metadata = dream_o.generate(request).metadata
    made_by = {"model": metadata["model"], "prompt": "a hill"}
    assert metadata == settings | {"ref_task1": "ip", "ref_task2": "style"} | made_by
