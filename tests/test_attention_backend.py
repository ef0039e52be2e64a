"""Which attention is chosen, and what happens where it is wrong or does not compile."""

from functools import partial

import torch

from dream_o.runtime import attention_backend as attention
from dream_o.runtime import speed
from tests.sampled import difference, latents_of

CPU = torch.device("cpu")


def test_the_attention_that_is_chosen_agrees_with_torchs_own(pipeline):
    before = latents_of(pipeline)
    backend = attention.choose_attention(pipeline.transformer, torch.float32, CPU)
    blocks = pipeline.transformer.single_transformer_blocks
    assert {block.attn.processor._attention_backend for block in blocks} == {backend}
    assert difference(latents_of(pipeline), before) < 1e-5


def test_attention_that_is_wrong_or_fails_is_not_chosen(pipeline, monkeypatch):
    own = attention.dispatch_attention_fn

    def attend(*inputs, backend):
        if backend.value == "_native_flash":
            raise RuntimeError("not for this device")
        return own(*inputs) * (1 if backend.value == "native" else 1.001)

    monkeypatch.setattr(attention, "dispatch_attention_fn", attend)
    assert attention.choose_attention(pipeline.transformer, torch.float32, CPU) == attention.NATIVE


def test_the_fastest_attention_that_agrees_is_chosen_and_kept(pipeline, monkeypatch, tmp_path):
    others = {"_native_flash": 1.0, "_native_cudnn": 2.0, "native": 4.0}

    def attend(*inputs, backend):
        if backend.value not in others:
            raise RuntimeError("not for this device")
        return inputs[0]

    monkeypatch.setattr(attention, "dispatch_attention_fn", attend)
    monkeypatch.setattr(attention, "_seconds", lambda run, _: others[run.keywords["backend"].value])
    kept = partial(attention.kept_attention, tmp_path, pipeline.transformer, torch.float32, CPU)
    assert kept().value == "_native_flash"
    others["_native_cudnn"] = 0.5
    assert kept().value == "_native_flash", "the next start takes what the first one took"
    (tmp_path / attention.KEPT_FILE).write_text('{"a half-')
    assert kept().value == "_native_cudnn"
    assert [path.name for path in tmp_path.iterdir()] == [attention.KEPT_FILE]


def test_attention_that_does_not_compile_gives_way_to_torchs_own(pipeline, not_compiled):
    block = pipeline.transformer.single_transformer_blocks[0]

    def warm_up():
        if block.attn.processor._attention_backend != attention.NATIVE:
            raise RuntimeError("a graph break")

    speed.apply_speed(pipeline, "compiled", warm_up)
    assert block.attn.processor._attention_backend == attention.NATIVE
    assert '"native"' in (speed.keep_compiled() / attention.KEPT_FILE).read_text()
