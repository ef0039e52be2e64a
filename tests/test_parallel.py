"""Two processes on the CPU make what one makes, and none is left waiting or behind."""

import os
import signal

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from dream_o.errors import SettingError, UserError
from dream_o.runtime.devices import check_sharing, pick_device, pick_devices
from dream_o.service.generator import DreamO
from dream_o.service.request import Reference, Request
from dream_o.service.settings import Settings
from dream_o.weights.format.bundle import read_bundle
from tests import ROOT
from tests.forked import Forked, run_code

SMALL = {"width": 144, "height": 112, "num_steps": 2}

# Starts a follower and stops in the middle of a call, which the follower is in too.
STOPPED = """
import sys, time
from pathlib import Path
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings

dream_o = DreamO.load(Settings(device="cpu:0,1", references="offline"), Path(sys.argv[1]))

def stop(*_):
    print("stopped", flush=True)
    time.sleep(1000)

dream_o.pipeline.transformer.single_transformer_blocks[1].register_forward_pre_hook(stop)
dream_o.generate(Request("a hill", width=64, height=64, num_steps=1))
"""


@pytest.fixture(scope="module")
def alone(fused):
    return DreamO.load(Settings(device="cpu", references="offline"), fused("v1.1", True))


@pytest.fixture(scope="module")
def shared(fused):
    settings = Settings(device="cpu:0,1", references="offline")
    dream_o = DreamO.load(settings, fused("v1.1", True))
    yield dream_o
    dream_o.followers.close()


@pytest.fixture(scope="module")
def expected(shared):
    return again(shared)


def again(shared):
    return shared.generate(Request("a hill", seed=5, **SMALL)).image.tobytes()


def picture(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("height", "width"), [(64, 128), (112, 144)])
@pytest.mark.parametrize("references", [(), ((80, 48), (48, 16))])
@pytest.mark.parametrize("options", [{}, {"true_cfg_scale": 2.0, "cfg_end_step": 1}])
def test_the_latents_are_those_of_one_process(alone, shared, height, width, references, options):
    # 112 x 144 pixels are 63 tokens, and the references 15 and 3: their halves are not equal.
    def latents(dream_o):
        return dream_o.pipeline(
            "a cat",
            [picture(1, *size) for size in references],
            negative_prompt="dark",
            height=height,
            width=width,
            num_inference_steps=2,
            max_sequence_length=33,
            output_type="latent",
            generator=torch.Generator().manual_seed(1),
            **options,
        ).images

    expected = latents(alone)
    assert (latents(shared) - expected).norm() < 1e-5 * expected.norm()


def test_the_image_is_that_of_one_process(alone, shared, tmp_path):
    picture(2, 90, 70).save(tmp_path / "reference.png")
    reference = Reference(tmp_path / "reference.png", "style")
    request = Request("a hill", (reference, reference), seed=5, ref_res=64, **SMALL)
    images = [np.int16(dream_o.generate(request).image) for dream_o in (alone, shared)]
    # A level between two may be rounded to either.
    assert abs(images[0] - images[1]).max() <= 1
    assert (images[0] != images[1]).mean() < 0.001


def test_a_request_that_is_cancelled_between_two_steps_is_followed_by_a_good_one(shared, expected):
    def cancel(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared.pipeline("a cat", height=64, width=64, callback_on_step_end=cancel)
    assert again(shared) == expected


def test_a_request_that_is_cancelled_within_a_step_is_followed_by_a_good_one(shared, expected):
    follower = shared.followers.processes[0].pid
    block = shared.pipeline.transformer.single_transformer_blocks[1]
    hook = block.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        shared.pipeline("a cat", height=64, width=64, num_inference_steps=1)
    hook.remove()
    assert again(shared) == expected
    assert shared.followers.processes[0].pid == follower


def test_a_rank_that_fails_leaves_no_other_waiting_and_followers_are_started_again(
    shared, expected
):
    def full(*_):
        raise torch.OutOfMemoryError

    first = shared.followers.processes[0]
    block = shared.pipeline.transformer.single_transformer_blocks[1]
    hook = block.register_forward_pre_hook(full)
    with pytest.raises(UserError, match="out of GPU memory"):
        again(shared)
    hook.remove()
    assert first.returncode is not None

    # The next call starts another follower, which is gone before that call ends.
    hook = block.register_forward_pre_hook(lambda *_: shared.followers.processes[0].kill())
    with pytest.raises(UserError) as error:
        again(shared)
    hook.remove()
    assert str(error.value) == "the process of rank 1 (cpu) ended; the next request starts it again"
    assert again(shared) == expected


def test_followers_end_when_their_parent_is_killed(fused, tmp_path):
    bundle = str(fused("v1.1", True))
    parent = Forked(run_code, STOPPED, [bundle], logs=tmp_path, folder=ROOT)
    parent.wait_for(lambda: parent.printed == "stopped\n")
    followers = psutil.Process(parent.process.pid).children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert len(followers) == 1
    assert psutil.wait_procs(followers, timeout=60)[1] == []


@pytest.mark.parametrize(
    ("setting", "devices"),
    [("cpu", 1), ("cpu:0,1", 2), ("cpu:0,1,2", 3)],
)
def test_processes_on_the_cpu_can_be_named(setting, devices):
    assert Settings.from_environ({"DREAM_O_DEVICE": setting}).device == setting
    assert pick_devices(setting) == [torch.device("cpu")] * devices


def test_gpus_are_named_by_their_numbers(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert pick_devices("cuda:1,3") == [torch.device("cuda:1"), torch.device("cuda:3")]


@pytest.mark.parametrize("setting", ["cuda:0,cuda:1", "cuda:0,", "mps:0,1", "cpu,cpu"])
def test_a_list_that_is_none_is_refused(setting):
    with pytest.raises(SettingError, match=r"use cuda:N,M for several GPUs, cpu:N,M for "):
        Settings.from_environ({"DREAM_O_DEVICE": setting})


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("cuda:0,1", "is not on this machine; use auto, cuda:0 or cpu"),
        ("cpu:1,1", "names a device twice; name each once"),
    ],
)
def test_devices_that_are_not_there_are_refused(setting, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingError) as error:
        DreamO.load(Settings(device=setting))
    assert str(error.value) == f"DREAM_O_DEVICE={setting!r} {reason}"


def test_what_is_for_one_device_refuses_several():
    with pytest.raises(SettingError, match="names several devices"):
        pick_device("cpu:0,1")


@pytest.mark.parametrize(
    ("ranks", "speed", "plan", "message"),
    [
        (2, "compiled", "none", "DREAM_O_SPEED='compiled' .* several devices; use auto or exact"),
        (2, "auto", "blocks", r"with offloading \(blocks\); name one device, or set DREAM_O_OFFL"),
        (3, "auto", "none", "do not divide the model's 2 attention heads; .* devices: 1, 2"),
    ],
)
def test_what_several_devices_cannot_do_is_refused(ranks, speed, plan, message, fused):
    with pytest.raises(SettingError, match=message):
        check_sharing("cuda:0,1", ranks, read_bundle(fused("v1.1", True)), speed, plan)
